"""Look at answers that recur, as the labels of a classification do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from statistics import median

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith.text import format_count
from tunesmith_evidence.answers.normalize import TextNormalizer
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.check import MOST_EXAMPLES, build_finding, quote, share
from tunesmith_plugins.checks.rows.row import Row

FEWEST_ROWS = 20
MOST_LABELS = 1_000
LONGEST_LABEL = 100
ROWS_PER_LABEL = 3
"""Mean number of rows of an answer from which on answers count as labels."""
DOMINANT_SHARE = 0.9
RARE_SHARE = 0.05
"""A label is rare if it has fewer rows than this share of the median label."""
MOST_RARE_LABELS = 0.1
"""Share of labels that may be rare; more of them are a long tail, and no accident."""
SIMILARITY = 0.85
"""Ratio of difflib from which on a rare label looks like a misspelled one."""


@dataclass
class Label:
    """The number of rows with a label, and the first of them."""

    source: str
    count: int = 0


class Labels:
    """Counts the answers of training rows until there are too many different ones for labels."""

    def __init__(self) -> None:
        self._labels: dict[str, Label] = {}
        self._unknown: dict[str, Label] = {}
        """Answers of validation and test rows."""
        self._rows = 0
        self._are_labels = True

    def add(self, block: Block) -> None:
        for row in block.rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        """Count the answer of a row."""
        if not self._are_labels or not row.has_right_answer:
            return
        answer = row.answer.strip()
        counts = self._labels if row.part == "train" else self._unknown
        if answer not in counts:
            self._are_labels = len(counts) < MOST_LABELS and len(answer) <= LONGEST_LABEL
            counts[answer] = Label(row.source)
        counts[answer].count += 1
        self._rows += row.part == "train"

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return findings about the balance, the spelling and rare labels."""
        recur = self._rows >= max(FEWEST_ROWS, ROWS_PER_LABEL * len(self._labels))
        if not self._are_labels or not recur:
            return
        yield from self._find_dominant()
        variants = self._find_variants()
        if variants:
            yield self._describe_variants(variants)
        known = {name: label for name, label in self._labels.items() if name not in variants}
        yield from self._find_rare(known)
        yield from self._find_unknown()

    def _find_dominant(self) -> Iterator[Finding]:
        name, label = max(self._labels.items(), key=lambda item: item[1].count)
        if label.count == self._rows:
            yield build_finding(
                "labels",
                "error",
                f"all {self._rows:,} training rows have the same answer",
                self._rows,
                [f"{label.source} {quote(name)}"],
                "look for the column with the answers",
            )
        elif label.count > DOMINANT_SHARE * self._rows:
            yield build_finding(
                "labels",
                "warning",
                f"{share(label.count, self._rows)} training rows have the same answer",
                label.count,
                [f"{label.source} {quote(name)}"],
                "add rows of the others, and compare with always giving this answer",
            )

    def _find_variants(self) -> dict[str, str]:
        """Return the rarer spellings of labels, each with the most frequent one."""
        spellings: dict[str, list[str]] = {}
        for name in self._labels:
            spellings.setdefault(label_key(name), []).append(name)
        variants: dict[str, str] = {}
        for names in spellings.values():
            usual = max(names, key=lambda name: self._labels[name].count)
            variants |= {name: usual for name in names if name != usual}
        return variants

    def _describe_variants(self, variants: dict[str, str]) -> Finding:
        count = sum(self._labels[name].count for name in variants)
        examples = [
            f"{self._labels[name].source} {quote(name)}, usually {quote(usual)}"
            for name, usual in list(variants.items())[:MOST_EXAMPLES]
        ]
        text = f"{share(count, self._rows)} training rows have another spelling of a label"
        hint = "write each label in one way: two spellings are two labels"
        return build_finding("labels", "warning", text, count, examples, hint)

    def _find_rare(self, known: dict[str, Label]) -> Iterator[Finding]:
        limit = RARE_SHARE * median(label.count for label in known.values())
        rare = {name: label for name, label in known.items() if label.count < limit}
        if not rare or len(rare) > max(1, MOST_RARE_LABELS * len(known)):
            return
        usual = [name for name in known if name not in rare]
        examples = []
        for name, label in rare.items():
            similar = get_close_matches(name, usual, n=1, cutoff=SIMILARITY)
            guess = f", perhaps {quote(similar[0])}" if similar else ""
            examples.append(
                f"{label.source} {quote(name)}, {format_count(label.count, 'row')}{guess}"
            )
        yield build_finding(
            "labels",
            "warning",
            f"{len(rare):,} of {len(known):,} labels are rare",
            sum(label.count for label in rare.values()),
            examples[:MOST_EXAMPLES],
            "correct them, add rows, or leave them out",
        )

    def _find_unknown(self) -> Iterator[Finding]:
        unknown = {n: label for n, label in self._unknown.items() if n not in self._labels}
        if not unknown:
            return
        rows = sum(label.count for label in self._unknown.values())
        count = sum(label.count for label in unknown.values())
        yield build_finding(
            "labels",
            "warning",
            f"{share(count, rows)} validation and test rows have a label that no training row has",
            count,
            [f"{x.source} {quote(name)}" for name, x in list(unknown.items())[:MOST_EXAMPLES]],
            "correct them, or add training rows",
        )


# Between two numbers it is a range or a version, and "level -1" has a sign.
_BETWEEN_WORDS = re.compile(
    r"(?<=[^\W\d_])(?:\s+|[_-]+)(?=[^\W_])|(?<=\d)(?:\s+|[_-]+)(?=[^\W\d_])"
)
_NORMALIZER = TextNormalizer(ignore_case=True, ignore_punctuation=True)


def label_key(label: str) -> str:
    """Return a label in one case, with spaces between words, and without punctuation around it.

    A sign or a symbol counts: -1 is not 1, and .5 is not 5.
    """
    return _BETWEEN_WORDS.sub(" ", _NORMALIZER.normalize(label) or "") or label
