"""Find answers that are not JSON objects or have unusual keys, if most others agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith.text import one_line
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.check import (
    MAX_EXAMPLES,
    Tally,
    build_finding,
    show_share,
)
from tunesmith_plugins.checks.rows.row import Row

MIN_ROWS = 20
EXCERPT = 60
MAX_SHAPES = 1_000
MAJORITY = 0.8
"""If at least this share of answers are JSON objects (or have the same keys), report the others."""

Keys = tuple[str, ...]


class JsonAnswers:
    """Counts answers by their set of keys, and those that are not JSON objects."""

    def __init__(self) -> None:
        self._shapes: dict[Keys, Tally] = {}
        self._other = Tally()
        self._rows = 0

    def add(self, block: Block) -> None:
        for row in block.rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        """Count an answer by its keys, or as an answer that is not a JSON object."""
        if not row.has_right_answer:
            return
        self._rows += 1
        keys = find_keys(row.answer)
        if keys is None:
            self._other.add(row, row.answer)
        elif keys in self._shapes or len(self._shapes) < MAX_SHAPES:
            self._shapes.setdefault(keys, Tally()).add(row, row.answer)

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return findings about answers that are not JSON objects or have unusual keys."""
        objects = self._rows - self._other.count
        if self._rows < MIN_ROWS or objects < MAJORITY * self._rows:
            return
        if self._other.count:
            yield build_finding(
                "json",
                "warning",
                f"{show_share(self._other.count, self._rows, 'answers')} are not JSON objects, but "
                "the others are",
                self._other.count,
                self._other.examples,
                "rewrite them as JSON objects, or remove these rows",
            )
        usual = max(self._shapes, key=lambda keys: self._shapes[keys].count)
        count = self._shapes[usual].count
        if MAJORITY * objects <= count < objects:
            yield build_finding(
                "json",
                "warning",
                f"{show_share(objects - count, objects, 'JSON answers')} have different keys from "
                "most others",
                objects - count,
                self._describe_others(usual),
                "use the same keys in every answer",
            )

    def _describe_others(self, usual: Keys) -> list[str]:
        others = [(keys, tally) for keys, tally in self._shapes.items() if keys != usual]
        return [
            f"{tally.sources[0]} {describe_difference(keys, usual)}"
            for keys, tally in others[:MAX_EXAMPLES]
        ]


def find_keys(answer: str) -> Keys | None:
    """Return the sorted keys of a JSON object, or None if the answer is not a JSON object."""
    text = answer.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return None
    try:
        return tuple(sorted(orjson.loads(text)))
    except orjson.JSONDecodeError:
        return None


def describe_difference(keys: Keys, usual: Keys) -> str:
    """Return the missing and the extra keys as text, such as ``lacks city and adds town``."""
    missing, new = sorted({*usual} - {*keys}), sorted({*keys} - {*usual})
    parts = [
        f"{word} {one_line(', '.join(names), EXCERPT)}"
        for word, names in (("lacks", missing), ("adds", new))
        if names
    ]
    return " and ".join(parts)
