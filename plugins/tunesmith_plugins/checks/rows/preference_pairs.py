"""Find preference pairs with equal answers, contradictory pairs, and a bias toward length."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from tunesmith.contracts import Finding
from tunesmith.records import Preference, Record
from tunesmith.statistics import mean_interval
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.check import (
    MAX_EXAMPLES,
    Tally,
    build_finding,
    show_row,
    show_share,
)
from tunesmith_plugins.checks.rows.row import Row, normalize_words

MIN_PAIRS = 20
MAX_EQUAL_SHARE = 0.5
"""If more than this share of the pairs has two equal answers, the finding is an error."""
LENGTH_BIAS = 0.8
"""Warn if more than this share of pairs prefers the longer answer, or the shorter one.

The whole 95 % confidence interval of the share must be above this."""


class PreferencePairs:
    """Compares the two answers of each training pair, storing 24 bytes per pair."""

    def __init__(self) -> None:
        self._numbers, self._keys, self._swapped = array("q"), array("q"), array("q")
        self._equal = Tally()
        self._longer = self._shorter = 0

    def add(self, block: Block) -> None:
        for row in block.rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        """Compare the answers of a training pair."""
        record = row.record
        if row.part != "train" or not isinstance(record, Preference):
            return
        chosen, rejected = normalize_words(record.chosen), normalize_words(record.rejected)
        if chosen == rejected:
            self._equal.add(row, record.chosen)
        self._longer += len(record.chosen) > len(record.rejected)
        self._shorter += len(record.chosen) < len(record.rejected)
        self._numbers.append(row.number)
        self._keys.append(hash((row.prompt_words, chosen, rejected)))
        self._swapped.append(hash((row.prompt_words, rejected, chosen)))

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return findings about equal answers, swapped pairs, and length bias."""
        pairs = len(self._numbers)
        if not pairs:
            return
        if self._equal.count:
            yield build_finding(
                "preference",
                "error" if self._equal.count > MAX_EQUAL_SHARE * pairs else "warning",
                f"{show_share(self._equal.count, pairs, 'pairs')} have the same chosen and "
                "rejected answer (ignoring case and spacing)",
                self._equal.count,
                self._equal.examples,
                "remove these pairs: they express no preference",
            )
        yield from self._find_swapped(train)
        if pairs >= MIN_PAIRS:
            yield from self._find_length_bias()

    def _find_swapped(self, train: Sequence[Record]) -> Iterator[Finding]:
        keys = np.frombuffer(self._keys, dtype=np.int64)
        swapped = np.frombuffer(self._swapped, dtype=np.int64)
        found = np.flatnonzero(np.isin(keys, swapped) & (keys != swapped))
        if len(found):
            yield build_finding(
                "preference",
                "warning",
                f"{show_share(len(found), len(keys), 'pairs')} also occur with the chosen and "
                "rejected answers swapped",
                len(found),
                [show_row(train, self._numbers[i]) for i in found[:MAX_EXAMPLES].tolist()],
                "keep only the correct one of the two pairs",
            )

    def _find_length_bias(self) -> Iterator[Finding]:
        compared = self._longer + self._shorter
        if not compared:
            return
        which, count = max(("longer", self._longer), ("shorter", self._shorter), key=lambda x: x[1])
        values = np.repeat((1.0, 0.0), (count, compared - count)).tolist()
        interval = mean_interval(values, bounds=(0.0, 1.0))
        if interval.low > LENGTH_BIAS:
            yield build_finding(
                "preference",
                "warning",
                f"the chosen answer is {which} in {show_share(count, compared, 'pairs')}, 95 % "
                f"confidence interval {100 * interval.low:.0f} to {100 * interval.high:.0f} %",
                count,
                (),
                f"balance the lengths; otherwise the model learns to prefer {which} answers",
            )
