"""Distinguish punctuation, which does not change what a text asks, from symbols that do.

The position is decisive: a mark is punctuation at the end of a word or line, at the start of a
quoted word, or between two words. All other symbols count: ``12 + 7`` is not ``12 - 7``, ``C++`` is
not ``C``, ``-1`` is not ``1``, ``!x`` is not ``x``, ``a == b`` is not ``a != b``, ``:)`` is not
``:(``, and ``5!`` is not ``5``.
"""

from __future__ import annotations

import re

__all__ = ["blank_punctuation"]

_STOPS = ".,;:?!。、،؛؟۔।॥።။"
_FINAL = _STOPS.replace("!", "")  # 5! is not 5
_LETTER = r"[^\W\d_]"
_WORD = f"{_LETTER}{{2}}"

# The pattern starts with a single set of characters, so most positions need only one comparison.
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
"""Maps variants of a sign to its standard form. Superscript digits become powers here, because
Unicode's NFKC would turn 2⁵ into 25."""


def blank_punctuation(text: str) -> str:
    """Replace each punctuation mark in a folded text with a space, without changing the length."""
    return _PUNCTUATION.sub(lambda found: " " * len(found[0]), text)
