"""Find repeated training rows, repeated test prompts, and prompts with different answers."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith.contracts import Finding
from tunesmith.records import Record, UnpairedPreference
from tunesmith.text import format_count
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.check import (
    MAX_EXAMPLES,
    Tally,
    build_finding,
    quote,
    show_row,
    show_share,
)
from tunesmith_plugins.checks.rows.row import Row, normalize_words, read_row

WARNED_SHARE = 0.01
"""Minimum share of repeated training rows for a warning."""
MIN_ROWS = 20
WARNED_TEST_SHARE = 0.05
"""Minimum share of test rows with a repeated prompt for a warning."""
LABEL_LENGTH = 100
"""Recurring answers count as labels if their mean length in characters is at most this."""

Keys = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Rows grouped by equal keys, sorted by key and then by row number."""

    order: Keys
    starts: npt.NDArray[np.bool_]
    """For each row in ``order``, True if the row is the first of its group."""

    @classmethod
    def of(cls, keys: Keys) -> Groups:
        """Group row numbers by their key."""
        order = np.argsort(keys, kind="stable")
        starts = np.ones(len(keys), dtype=np.bool_)
        starts[1:] = keys[order[1:]] != keys[order[:-1]]
        return cls(order, starts)

    @property
    def repeated(self) -> npt.NDArray[np.bool_]:
        """For each row in ``order``, True unless the row is the first of its group."""
        return ~self.starts

    def firsts(self) -> Keys:
        """Return, for each row in ``order``, the first row of its group."""
        firsts: Keys = self.order[self.starts][np.cumsum(self.starts) - 1]
        return firsts


class Duplicates:
    """Finds repeated rows by their hashes, which take 40 bytes per training row."""

    def __init__(self) -> None:
        self._numbers, self._rows = array("q"), array("q")
        self._prompts, self._answers = array("q"), array("q")
        self._with_answer = array("q")
        self._answer_characters = 0
        self._test = 0
        self._test_groups: dict[int, str | None] = {}
        self._asked_again = Tally()

    def add(self, block: Block) -> None:
        for row in block.rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        """Store the hashes of a training row, or compare a test row with earlier test rows."""
        if row.part == "test":
            self._compare_test(row)
        if row.part != "train":
            return
        self._numbers.append(row.number)
        self._rows.append(_hash_row(row))
        if row.prompt and row.has_right_answer:
            self._with_answer.append(row.number)
            self._prompts.append(hash(row.prompt_words))
            self._answers.append(hash(row.answer_signs))
            self._answer_characters += len(row.answer)

    def _compare_test(self, row: Row) -> None:
        """Count a test row that repeats an earlier prompt, unless both are in the same group."""
        self._test += 1
        key = hash(row.prompt_words)
        if not row.prompt:
            return
        group = row.record.group
        if key not in self._test_groups:
            self._test_groups[key] = group
        elif group is None or self._test_groups[key] != group:
            self._asked_again.add(row, row.prompt)

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return findings about repeated rows, differing answers, and repeated test prompts."""
        if len(self._numbers):
            yield from self._find_repeated(train)
        if len(self._with_answer):
            yield from self._find_contradictions(train)
        if again := self._asked_again.count:
            yield build_finding(
                "duplicates",
                "warning" if again >= WARNED_TEST_SHARE * self._test else "info",
                f"{show_share(again, self._test, 'test rows')} repeat the prompt of an earlier "
                "test row: a model gives the same answer to both, so intervals that count both are "
                "too narrow",
                again,
                self._asked_again.examples,
                "keep each test prompt only once, or set data.group to a column: rows of a group "
                "count as one",
            )

    def _find_repeated(self, train: Sequence[Record]) -> Iterator[Finding]:
        numbers = np.frombuffer(self._numbers, dtype=np.int64)
        groups = Groups.of(np.frombuffer(self._rows, dtype=np.int64))
        repeated = groups.order[groups.repeated]
        if not len(repeated):
            return
        firsts = groups.firsts()[groups.repeated]
        chosen = np.argsort(repeated)[:MAX_EXAMPLES]
        examples = [
            f"{show_row(train, int(numbers[row]))} repeats {train[int(numbers[first])].source}"
            for row, first in zip(repeated[chosen], firsts[chosen], strict=True)
        ]
        yield build_finding(
            "duplicates",
            "warning" if len(repeated) >= WARNED_SHARE * len(numbers) else "info",
            f"{show_share(len(repeated), len(numbers), 'training rows')} repeat an earlier row "
            "(ignoring case, spacing and punctuation)",
            len(repeated),
            examples,
            "remove the copies, which give these rows several times the weight in training",
        )

    def _find_contradictions(self, train: Sequence[Record]) -> Iterator[Finding]:
        numbers = np.frombuffer(self._with_answer, dtype=np.int64)
        answers = np.frombuffer(self._answers, dtype=np.int64)
        groups = Groups.of(np.frombuffer(self._prompts, dtype=np.int64))
        others = answers[groups.order] != answers[groups.firsts()]
        differing = groups.order[others]  # rows whose answer differs from the first of their group
        if not len(differing):
            return
        firsts = groups.firsts()[others]
        prompts = len(np.unique(firsts))
        chosen = np.argsort(differing)[:MAX_EXAMPLES]
        examples = [
            _show_answers(train, int(numbers[first]), int(numbers[row]))
            for row, first in zip(differing[chosen], firsts[chosen], strict=True)
        ]
        are_labels = self._are_labels(answers)
        yield build_finding(
            "duplicates",
            "warning" if are_labels else "info",
            f"{format_count(prompts, 'prompt')} in {len(numbers):,} training rows "
            f"{'has' if prompts == 1 else 'have'} more than one answer",
            len(differing),
            examples,
            "keep the correct answer" if are_labels else "fine if all these answers are correct",
        )

    def _are_labels(self, answers: Keys) -> bool:
        """Return True if answers look like labels, so that only one per prompt can be correct."""
        if len(answers) < MIN_ROWS:
            return False
        is_short = self._answer_characters <= LABEL_LENGTH * len(answers)
        return is_short and 3 * len(np.unique(answers)) <= len(answers)


def _hash_row(row: Row) -> int:
    """Return a hash of a row's letters, digits and symbols, which is equal for repeated rows."""
    label = row.record.label if isinstance(row.record, UnpairedPreference) else None
    return hash((row.text_signs, normalize_words(row.answer), label))


def _show_answers(train: Sequence[Record], first: int, second: int) -> str:
    rows = read_row(train[first]), read_row(train[second])
    assert rows[0] is not None and rows[1] is not None, "only rows that have been read can be shown"
    answers = " and ".join(f"{row.source} {quote(row.answer)}" for row in rows if row)
    return f"{quote(rows[0].question)}: {answers}"
