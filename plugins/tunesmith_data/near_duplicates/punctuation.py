"""Tell punctuation, which says nothing about what a text asks, from symbols that do.

Punctuation is decided by its place: the end of a word or of a line, the start of a quoted word, or
between two words. All other symbols count: ``12 + 7`` is not ``12 - 7``, ``C++`` is not ``C``,
``-1`` is not ``1``, ``!x`` is not ``x``, ``a == b`` is not ``a != b``, ``:)`` is not ``:(``, and
``5!`` is not ``5``.
"""

from __future__ import annotations

import re

__all__ = ["blank_punctuation"]

_STOPS = ".,;:?!。、،؛؟۔।॥።။"
_FINAL = _STOPS.replace("!", "")  # 5! is not 5
_LETTER = r"[^\W\d_]"
_WORD = f"{_LETTER}{{2}}"

# It begins with one set of characters, so that most places need one comparison.
_PUNCTUATION = re.compile(
    rf"[-{_STOPS}'\"—¿¡](?:"
    rf"(?<={_WORD}[-{_STOPS}])(?={_WORD})"  # top-up
    rf"|(?<={_LETTER}')(?={_LETTER})"  # don't
    rf"|(?<!\S['\"])(?<=['\"])['\"]*+(?={_WORD})"  # "card
    rf"|(?<={_WORD}[{_STOPS}'\"])[{_STOPS}'\"]*+(?!\S)"  # card?!
    rf"|(?<=[^\s{_STOPS}'\"][{_FINAL}])[{_FINAL}]*+(?!\S)"  # C++?
    rf"|(?<=\S [{_STOPS}])[{_STOPS}]*+(?=[^\S\n]*$)"  # carte ?
    r"|(?<=[—¿¡])"
    r")",
    re.MULTILINE,
)

SPELLINGS = str.maketrans(
    {
        **dict.fromkeys("‘’‛ʼ′", "'"),
        **dict.fromkeys("“”„‟«»", '"'),
        **dict.fromkeys("‐‑‒–−", "-"),
        **{sign: f"^{digit}" for sign, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)},
    }
)
"""Other spellings of a sign. Raised digits are powers: Unicode's NFKC makes 25 of 2⁵."""


def blank_punctuation(text: str) -> str:
    """Return a folded text of the same length, with a space in place of each punctuation mark."""
    return _PUNCTUATION.sub(lambda found: " " * len(found[0]), text)
