"""Find texts that stand in another text as wholes, and not as a part of a word or a number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

__all__ = ["write_whole_pattern"]

_QUOTES = "\"'`“”„‘’«»‹›"
# A sign, an operator or a symbol beside a text belongs to it: "C" does not stand in "C++", nor
# "1" in "-1". Beside a digit, so do marks that stand in numbers.
_BEFORE = rf"(?<![^\s{_QUOTES}(\[{{<>:;,./|=—–（「『《。，、；：！？])(?<!\w['’])"
_AFTER = rf"(?![^\s{_QUOTES})\]}}<>:;,./|!?…—–）」』》。，、；：！？])(?!['’]\w)"
_BEFORE_DIGIT = rf"(?<![^\s{_QUOTES}(\[{{:;,（「『《。，、；：])(?<!\d[:,])(?<![-+−–] )"
_AFTER_DIGIT = rf"(?![^\s{_QUOTES})\]}}:;,.!?…）」』》。，、；：！？])(?![.,:]\d)"


class WholeFinder:
    """Finds the places in texts at which one of some parts stands as a whole."""

    def __init__(self, parts: Iterable[str]) -> None:
        longest_first = sorted(filter(None, parts), key=len, reverse=True)
        by_start: dict[str, list[str]] = {}
        for part in longest_first:  # what is before a part is looked at once for all of them
            by_start.setdefault(_before(part), []).append(f"{re.escape(part)}{_after(part)}")
        groups = [f"{before}(?:{'|'.join(found)})" for before, found in by_start.items()]
        self._pattern = re.compile("|".join(groups) or "(?!)")

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield the places and the parts that stand there.

        Places do not overlap; at one place it is the longest part.
        """
        for match in self._pattern.finditer(text):
            yield match.start(), match.group()


def write_whole_pattern(part: str) -> str:
    """Return a regular expression of a part that stands as a whole."""
    return f"{_before(part)}{re.escape(part)}{_after(part)}"


def _before(part: str) -> str:
    return _BEFORE_DIGIT if part[0].isdigit() else _BEFORE


def _after(part: str) -> str:
    return _AFTER_DIGIT if part[-1].isdigit() else _AFTER
