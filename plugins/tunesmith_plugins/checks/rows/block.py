"""Find the rows of a block that may have a fault, without examining each row.

Each fault has *marks*, which are short texts such as ``<`` or ``INST]``. Nearly all rows contain no
mark, so the rows of a block are joined and searched as one array. The search takes a few
nanoseconds per character, regardless of the number of faults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tunesmith.records import Completion, Record
from tunesmith_plugins.checks.rows.row import Part, Row, fold_signs, read_row

Codes = npt.NDArray[np.uint32]
Bits = npt.NDArray[np.uint32]
Positions = npt.NDArray[np.int64]

BLOCK_CHARACTERS = 1 << 18
_SLICE = 1 << 18
"""Number of characters that are searched at a time, because a row can be very long."""
_GRAM = 3
_LONG_NUMBER = re.compile(rb"[0-9](?:[ .()-]{0,2}[0-9]){6}")
_NUMBER = re.compile(rb"[0-9][0-9]")
_FREQUENT = "etaoinshrdlucmfwypvbgkqjxz"
"""Letters sorted by frequency in English text, the most frequent first."""


class Block:
    """Consecutive rows, with their texts joined by line breaks."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._compute_signs()
        self._text = "\n".join([*(row.text for row in rows), ""])
        self._ends = np.cumsum([len(row.text) + 1 for row in rows])

    @cached_property
    def codes(self) -> Codes:
        """Code points of all texts, each followed by a line break."""
        return np.frombuffer(self._text.encode("utf-32-le", "surrogatepass"), np.uint32)

    @cached_property
    def ascii(self) -> bytes:
        """All texts, with a question mark for each non-ASCII character."""
        return self._text.encode("ascii", "replace")

    @cached_property
    def with_long_number(self) -> list[Row]:
        """The rows with a number of at least seven digits, with or without separators."""
        starts = [match.start() for match in _LONG_NUMBER.finditer(self.ascii)]
        return self.rows_at(np.array(starts, dtype=np.int64))

    @cached_property
    def with_number(self) -> list[Row]:
        """The rows with a number of at least two digits."""
        starts = [match.start() for match in _NUMBER.finditer(self.ascii)]
        return self.rows_at(np.array(starts, dtype=np.int64))

    def rows_at(self, positions: Positions) -> list[Row]:
        """Return the rows at these character positions, in order and without repeats."""
        numbers = np.unique(np.searchsorted(self._ends, positions, side="right"))
        return [self.rows[number] for number in numbers.tolist()]

    def _compute_signs(self) -> None:
        """Compute the letters, digits and symbols of all rows at once, for speed."""
        parts = [text for row in self.rows for text in (row.prompt, row.answer)]
        others = [row.text for row in self.rows if not isinstance(row.record, Completion)]
        found_parts, found_others = iter(fold_signs(parts)), iter(fold_signs(others))
        for row in self.rows:
            row.prompt_signs, row.answer_signs = next(found_parts), next(found_parts)
            is_two_parts = isinstance(row.record, Completion)
            both = row.prompt_signs + row.answer_signs
            row.text_signs = both if is_two_parts else next(found_others)


class MarkFinder:
    """Finds the rows that contain a mark, for up to 32 faults in one pass.

    A mark is a single character, or an ASCII text of at least three characters. For a longer mark,
    only its rarest three characters are searched, so false positives are possible, but not misses.
    """

    def __init__(self, faults: Sequence[Sequence[str]]) -> None:
        self._faults = len(faults)
        self._characters = np.zeros(0x110000, dtype=np.uint32)
        self._grams = np.zeros(1 << (7 * _GRAM), dtype=np.uint32)
        for fault, marks in enumerate(faults):
            for mark in marks:
                if len(mark) == 1:
                    self._characters[ord(mark)] |= np.uint32(1 << fault)
                else:
                    gram = np.frombuffer(rarest_gram(mark).encode("ascii"), np.uint8)
                    self._grams[_gram_codes(gram)] |= np.uint32(1 << fault)

    def find(self, block: Block) -> list[list[Row]]:
        """Return, for each fault, the rows that may contain one of its marks."""
        characters = self._look_up_characters(block.codes)
        grams = self._look_up_grams(np.frombuffer(block.ascii, np.uint8))
        positions = np.concatenate([characters[0], grams[0]])
        bits = np.concatenate([characters[1], grams[1]])
        return [
            block.rows_at(positions[(bits & np.uint32(1 << fault)) > 0])
            for fault in range(self._faults)
        ]

    def _look_up_characters(self, codes: Codes) -> tuple[Positions, Bits]:
        found = self._characters[codes]
        positions = np.flatnonzero(found)
        return positions, found[positions]

    def _look_up_grams(self, codes: npt.NDArray[np.uint8]) -> tuple[Positions, Bits]:
        parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint32))]
        for start in range(0, len(codes), _SLICE):
            found = self._grams[_gram_codes(codes[start : start + _SLICE + _GRAM - 1])]
            positions = np.flatnonzero(found)
            parts.append((positions + start, found[positions]))
        positions, bits = (np.concatenate(part) for part in zip(*parts, strict=True))
        return positions, bits


def rarest_gram(mark: str) -> str:
    """Return the three consecutive characters of a mark that are rarest in English text."""
    if not mark.isascii() or len(mark) < _GRAM:
        raise ValueError(
            "a mark must be a single character, or ASCII text of at least three characters: "
            f"{mark!r}"
        )
    grams = [mark[i : i + _GRAM] for i in range(len(mark) - _GRAM + 1)]
    return max(grams, key=lambda gram: sum(map(_rarity, gram)))


def _rarity(character: str) -> int:
    place = _FREQUENT.find(character)
    return place if place >= 0 else -1 if character == " " else 2 * len(_FREQUENT)


def _gram_codes(codes: npt.NDArray[np.uint8]) -> Codes:
    """Encode each sequence of three ASCII characters as one number."""
    wide = codes.astype(np.uint32)
    numbers: Codes = (wide[:-2] << np.uint32(14)) | (wide[1:-1] << np.uint32(7)) | wide[2:]
    return numbers


def read_blocks(records: Iterable[Record], part: Part) -> Iterator[Block]:
    """Yield the rows of records in blocks, skipping kinds of records that a plugin defines."""
    rows: list[Row] = []
    size = 0
    for number, record in enumerate(records):
        row = read_row(record, part, number)
        if row is not None:
            rows.append(row)
            size += len(row.text) + 1
        if size >= BLOCK_CHARACTERS:
            yield Block(rows)
            rows, size = [], 0
    if rows:
        yield Block(rows)
