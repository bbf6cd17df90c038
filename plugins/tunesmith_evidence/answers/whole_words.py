"""Find texts that stand in another text as wholes, and not as a part of a word or a number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_QUOTES = "\"'`“”„‘’«»‹›"
# A sign, an operator or a symbol beside a text belongs to it: "C" does not stand in "C++", nor
# "1" in "-1". Beside a digit, so do marks that stand in numbers.
_BEFORE = rf"(?<![^\s{_QUOTES}(\[{{<>:;,./|=—–（「『《。，、；：！？])(?<!\w['’])"
_AFTER = rf"(?![^\s{_QUOTES})\]}}<>:;,./|!?…—–）」』》。，、；：！？])(?!['’]\w)"
_BEFORE_DIGIT = rf"(?<![^\s{_QUOTES}(\[{{:;,（「『《。，、；：])(?<!\d[:,])(?<![-+−–] )"
_AFTER_DIGIT = rf"(?![^\s{_QUOTES})\]}}:;,.!?…）」』》。，、；：！？])(?![.,:]\d)"


def find_whole(text: str, parts: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the places in a text at which one of the parts stands as a whole, and the part.

    Places do not overlap; at one place it is the longest part.
    """
    longest_first = sorted(filter(None, parts), key=len, reverse=True)
    if longest_first:
        for match in re.finditer("|".join(map(write_whole_pattern, longest_first)), text):
            yield match.start(), match.group()


def write_whole_pattern(part: str) -> str:
    """Return a regular expression of a part that stands as a whole."""
    before = _BEFORE_DIGIT if part[0].isdigit() else _BEFORE
    after = _AFTER_DIGIT if part[-1].isdigit() else _AFTER
    return f"{before}{re.escape(part)}{after}"
