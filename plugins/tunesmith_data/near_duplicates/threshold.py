"""The threshold above which two texts count as near duplicates."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith_data.near_duplicates.features import Bits, Floats


@dataclass(frozen=True)
class Threshold:
    """The least Jaccard similarities of character 5-grams and of words.

    Two texts are near duplicates if their 5-grams are similar enough, or if both their words and,
    less strictly, their 5-grams are. The 5-grams find typos, other endings and scripts without
    spaces. The words find another order, and another word in a row of ten, which changes a third
    of its 5-grams; alone they would join short rows that only share their frequent words.
    """

    characters: float = 0.7
    """Similarity of the 5-grams that is enough by itself, from 0 to 1."""
    words: float = 0.75
    """Similarity of the words that is enough together with the next one."""
    characters_with_words: float = 0.5
    """Similarity of the 5-grams that is enough together with that of the words."""

    def __post_init__(self) -> None:
        """Raise a :class:`ValueError` for values that are no similarities."""
        for name, value in vars(self).items():
            if not 0 < value <= 1:
                raise ValueError(f"{name}: must be above 0 and at most 1, got {value}")
        if self.characters_with_words > self.characters:
            raise ValueError(
                "characters_with_words: must be at most characters, "
                f"got {self.characters_with_words} above {self.characters}"
            )

    def accepts(self, characters: Floats, words: Floats) -> Bits:
        """Return, for each pair of similarities, True if they are near duplicates'."""
        both = (characters >= self.characters_with_words) & (words >= self.words)
        return (characters >= self.characters) | both

    def __str__(self) -> str:
        """Return the metric and the threshold in words."""
        return (
            f"Jaccard similarity of character 5-grams at least {self.characters:g}, "
            f"or {self.characters_with_words:g} with that of words at least {self.words:g}"
        )


DEFAULT_THRESHOLD = Threshold()
