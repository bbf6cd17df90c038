"""Find texts within another text as whole words or numbers, not as parts of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

__all__ = ["build_whole_word_pattern"]

_QUOTES = "\"'`“”„‘’«»‹›"
# An adjacent sign, operator or symbol is part of the word: "C" is not found in "C++", nor "1" in
# "-1". Next to a digit, the same applies to marks that occur in numbers.
_BEFORE = rf"(?<![^\s{_QUOTES}(\[{{<>:;,./|=—–（「『《。，、；：！？])(?<!\w['’])"
_AFTER = rf"(?![^\s{_QUOTES})\]}}<>:;,./|!?…—–）」』》。，、；：！？])(?!['’]\w)"
_BEFORE_DIGIT = rf"(?<![^\s{_QUOTES}(\[{{:;,（「『《。，、；：])(?<!\d[:,])(?<![-+−–] )"
_AFTER_DIGIT = rf"(?![^\s{_QUOTES})\]}}:;,.!?…）」』》。，、；：！？])(?![.,:]\d)"


class WholeWordFinder:
    """Finds where any of several search texts occurs in a text as a whole word or number."""

    def __init__(self, parts: Iterable[str]) -> None:
        longest_first = sorted(filter(None, parts), key=len, reverse=True)
        by_start: dict[str, list[str]] = {}
        for part in longest_first:  # Group the parts, so that each look-behind is only tested once.
            by_start.setdefault(_before(part), []).append(f"{re.escape(part)}{_after(part)}")
        groups = [f"{before}(?:{'|'.join(found)})" for before, found in by_start.items()]
        self._pattern = re.compile("|".join(groups) or "(?!)")

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield each position, with the search text found there.

        Matches do not overlap; the longest search text wins.
        """
        for match in self._pattern.finditer(text):
            yield match.start(), match.group()


def build_whole_word_pattern(part: str) -> str:
    """Return a regular expression that matches ``part`` as a whole word or number."""
    return f"{_before(part)}{re.escape(part)}{_after(part)}"


def _before(part: str) -> str:
    return _BEFORE_DIGIT if part[0].isdigit() else _BEFORE


def _after(part: str) -> str:
    return _AFTER_DIGIT if part[-1].isdigit() else _AFTER
