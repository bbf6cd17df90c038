"""Convert many texts at once with a function that works on most characters independently.

Unicode normalization and case folding take microseconds per non-ASCII text. A table therefore
stores the result for each character, and all texts are looked up together. Characters that depend
on their neighbors (combining marks, parts of Hangul syllables) or expand to several characters are
not in the table. Texts that contain such a character are converted by the function itself.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint32]

_UNKNOWN, _ALONE, _DROPPED = 0x110000, 0x110001, 0x110002
_HANGUL_PARTS = ((0x1100, 0x11FF), (0xA960, 0xA97F), (0xD7B0, 0xD7FF))
_BLOCK_CHARACTERS = 1 << 18


class CharacterMap:
    """Applies a text function by means of a table of its results per character.

    The function must give the same result for a whole text as for its characters one by one, unless
    a character combines with its neighbor.
    """

    def __init__(self, convert: Callable[[str], str]) -> None:
        self._convert = convert
        self._table: Codes | None = None

    def apply(self, texts: Sequence[str]) -> list[str]:
        """Return the result of the function for each text."""
        results: list[str] = []
        start = size = 0
        for number, text in enumerate(texts, start=1):
            size += len(text)
            if size >= _BLOCK_CHARACTERS or number == len(texts):
                results += self._apply(texts[start:number])
                start, size = number, 0
        return results

    def _apply(self, texts: Sequence[str]) -> list[str]:
        mapped = self._look_up("".join(texts))
        ends = np.cumsum([len(text) for text in texts])
        alone = np.unique(np.searchsorted(ends, np.flatnonzero(mapped == _ALONE), side="right"))
        dropped = np.flatnonzero(mapped >= _UNKNOWN)
        if len(dropped):
            ends = ends - np.searchsorted(dropped, ends)
            mapped = np.delete(mapped, dropped)
        joined = mapped.tobytes().decode("utf-32-le", "surrogatepass")
        bounds = [0, *ends.tolist()]
        results = [joined[start:end] for start, end in pairwise(bounds)]
        for number in alone.tolist():
            results[number] = self._convert(texts[number])
        return results

    def _look_up(self, text: str) -> Codes:
        if self._table is None:
            self._table = np.full(0x110000, _UNKNOWN, dtype=np.uint32)
        table = self._table
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        mapped = table[codes]
        unknown = np.unique(codes[mapped == _UNKNOWN])
        if len(unknown):
            table[unknown] = [self._entry(chr(code)) for code in unknown.tolist()]
            mapped = table[codes]
        return mapped

    def _entry(self, character: str) -> int:
        result = self._convert(character)
        if _may_combine(character) or len(result) > 1 or any(map(_may_combine, result)):
            return _ALONE
        return ord(result) if result else _DROPPED


def _may_combine(character: str) -> bool:
    """Return True if normalization may combine this character with the previous one."""
    is_part = any(first <= ord(character) <= last for first, last in _HANGUL_PARTS)
    return is_part or unicodedata.category(character).startswith("M")
