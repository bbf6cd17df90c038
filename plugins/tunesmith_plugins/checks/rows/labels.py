"""Check recurring answers, such as the labels of a classification task."""

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
from tunesmith_plugins.checks.rows.check import MAX_EXAMPLES, build_finding, quote, show_share
from tunesmith_plugins.checks.rows.row import Row

MIN_ROWS = 20
MAX_LABELS = 1_000
MAX_LABEL_CHARACTERS = 100
ROWS_PER_LABEL = 3
"""Answers count as labels if each occurs in at least this many rows on average."""
DOMINANT_SHARE = 0.9
RARE_SHARE = 0.05
"""A label is rare if it has less than this share of the median number of rows per label."""
MAX_RARE_LABELS = 0.1
"""If more than this share of the labels is rare, it is a long tail and not a mistake."""
MAX_UNTESTED_SHARE = 0.05
"""Labels without test rows are reported if more than this share of the training rows has them."""
SIMILARITY = 0.85
"""Minimum difflib ratio to suggest that a rare label is a misspelling of a frequent one."""


@dataclass
class Label:
    """The source of the first row with a label, and the number of rows with that label."""

    source: str
    count: int = 0


class Labels:
    """Counts the answers of training rows, until they are too many to be labels."""

    def __init__(self) -> None:
        self._labels: dict[str, Label] = {}
        self._unknown: dict[str, Label] = {}
        """Counts of answers in validation and test rows."""
        self._tested: set[str] = set()
        """The keys of answers in test rows."""
        self._padded: dict[str, Label] = {}
        """Counts of answers in training rows with white space around them."""
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
            self._are_labels = len(counts) < MAX_LABELS and len(answer) <= MAX_LABEL_CHARACTERS
            counts[answer] = Label(row.source)
        counts[answer].count += 1
        if row.part == "test":
            self._tested.add(label_key(answer))
        if row.part == "train" and answer != row.answer:
            self._padded.setdefault(answer, Label(row.source)).count += 1
        self._rows += row.part == "train"

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return findings about dominant, misspelled, rare and unknown labels."""
        recur = self._rows >= max(MIN_ROWS, ROWS_PER_LABEL * len(self._labels))
        if not self._are_labels or not recur:
            return
        yield from self._find_dominant()
        variants = self._find_variants()
        padded = self._find_padded(variants)
        if variants or padded:
            yield self._describe_variants(variants, padded)
        known = {name: label for name, label in self._labels.items() if name not in variants}
        yield from self._find_rare(known)
        yield from self._find_untested(known)
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
                "check that the answers are read from the right column",
            )
        elif label.count > DOMINANT_SHARE * self._rows:
            yield build_finding(
                "labels",
                "warning",
                f"{show_share(label.count, self._rows, 'training rows')} have the same answer",
                label.count,
                [f"{label.source} {quote(name)}"],
                "add rows with other answers; the `majority` baseline always gives this answer",
            )

    def _find_variants(self) -> dict[str, str]:
        """Return the rarer spellings of labels, each with the most frequent spelling."""
        spellings: dict[str, list[str]] = {}
        for name in self._labels:
            spellings.setdefault(label_key(name), []).append(name)
        variants: dict[str, str] = {}
        for names in spellings.values():
            usual = max(names, key=lambda name: self._labels[name].count)
            variants |= {name: usual for name in names if name != usual}
        return variants

    def _find_padded(self, variants: dict[str, str]) -> dict[str, int]:
        """Return the rows of each usual label that differ in white space around it."""
        sizes = {name: self._labels[name].count for name in self._padded if name not in variants}
        rows = {
            name: min(self._padded[name].count, n - self._padded[name].count)
            for name, n in sizes.items()
        }
        return {name: count for name, count in rows.items() if count}

    def _describe_variants(self, variants: dict[str, str], padded: dict[str, int]) -> Finding:
        count = sum(self._labels[name].count for name in variants) + sum(padded.values())
        examples = [
            f"{self._labels[name].source} {quote(name)}, usually {quote(usual)}"
            for name, usual in variants.items()
        ]
        examples += [
            f"{self._padded[name].source} {quote(name)} has white space around it, other rows not"
            for name in padded
        ]
        share = show_share(count, self._rows, "training rows")
        text = f"{share} use an unusual spelling of a label"
        hint = "spell each label in one way: the model learns each spelling separately"
        return build_finding("labels", "warning", text, count, examples[:MAX_EXAMPLES], hint)

    def _find_rare(self, known: dict[str, Label]) -> Iterator[Finding]:
        limit = RARE_SHARE * median(label.count for label in known.values())
        rare = {name: label for name, label in known.items() if label.count < limit}
        if not rare or len(rare) > max(1, MAX_RARE_LABELS * len(known)):
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
            f"{len(rare):,} of {len(known):,} labels are rare (less than {100 * RARE_SHARE:g} % of "
            "the rows of the median label)",
            sum(label.count for label in rare.values()),
            examples[:MAX_EXAMPLES],
            "correct misspelled labels, add rows, or remove these labels",
        )

    def _find_untested(self, known: dict[str, Label]) -> Iterator[Finding]:
        untested = {n: label for n, label in known.items() if label_key(n) not in self._tested}
        count = sum(label.count for label in untested.values())
        if not self._tested or count <= MAX_UNTESTED_SHARE * self._rows:
            return
        yield build_finding(
            "labels",
            "warning",
            f"{show_share(count, self._rows, 'training rows')} have a label that no test row has "
            f"({len(untested):,} of {len(known):,} labels)",
            count,
            [f"{x.source} {quote(name)}" for name, x in list(untested.items())[:MAX_EXAMPLES]],
            "add test rows with these labels: the results say nothing about them",
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
            f"{show_share(count, rows, 'validation and test rows')} have a label that no training "
            "row has",
            count,
            [f"{x.source} {quote(name)}" for name, x in list(unknown.items())[:MAX_EXAMPLES]],
            "correct these labels, or add training rows with them",
        )


# A hyphen between two digits is a range or a version, and in "level -1" it is a sign.
_BETWEEN_WORDS = re.compile(
    r"(?<=[^\W\d_])(?:\s+|[_-]+)(?=[^\W_])|(?<=\d)(?:\s+|[_-]+)(?=[^\W\d_])"
)
_NORMALIZER = TextNormalizer(ignore_case=True, ignore_punctuation=True)


def label_key(label: str) -> str:
    """Return a key that is the same for all spellings of a label.

    The key ignores case, punctuation around the label, and the way words are separated. It keeps
    signs and symbols, so -1 and 1 have different keys, and so do .5 and 5.
    """
    return _BETWEEN_WORDS.sub(" ", _NORMALIZER.normalize(label) or "") or label
