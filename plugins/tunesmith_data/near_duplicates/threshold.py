"""The similarity threshold for near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith_data.near_duplicates.features import Bits, Floats


@dataclass(frozen=True)
class Threshold:
    """The minimum Jaccard similarities of character 5-grams and of words.

    Two texts are near-duplicates if one of these holds:

    - Their 5-grams are similar (``characters``). This catches typos and inflections, and works for
      scripts without spaces.
    - Their words are similar (``words``), and to a lesser degree their 5-grams
      (``characters_with_words``). This catches reordered words, or one replaced word in a text of
      ten, which changes a third of its 5-grams. Words alone would match short rows that only share
      frequent words.
    """

    characters: float = 0.7
    """Similarity of the 5-grams that is sufficient alone, from 0 to 1."""
    words: float = 0.75
    """Similarity of the words that is sufficient together with ``characters_with_words``."""
    characters_with_words: float = 0.5
    """Similarity of the 5-grams that is sufficient together with ``words``."""

    def __post_init__(self) -> None:
        """Raise a :class:`ValueError` for values that are not valid similarities."""
        for name, value in vars(self).items():
            if not 0 < value <= 1:
                raise ValueError(f"{name}: must be above 0 and at most 1, got {value}")
        if self.characters_with_words > self.characters:
            raise ValueError(
                f"characters_with_words: must not be above characters = {self.characters}, "
                f"got {self.characters_with_words}"
            )

    def accepts(self, characters: Floats, words: Floats) -> Bits:
        """Return True for each pair of similarities that makes two texts near-duplicates."""
        both = (characters >= self.characters_with_words) & (words >= self.words)
        return (characters >= self.characters) | both

    def __str__(self) -> str:
        """Describe the similarity measure and the threshold."""
        return (
            f"Jaccard similarity of character 5-grams at least {self.characters:g}, "
            f"or {self.characters_with_words:g} with that of words at least {self.words:g}"
        )


DEFAULT_THRESHOLD = Threshold()
