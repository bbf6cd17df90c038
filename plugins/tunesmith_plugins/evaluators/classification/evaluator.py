"""Measure accuracy and macro F1 of answers that are labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, Self

import numpy as np

from tunesmith.contracts import Measurement, RunContext, TextModel
from tunesmith.data.units import restore_loaded_groups
from tunesmith.errors import DataError
from tunesmith.records import Record, last_exchange
from tunesmith_evidence.answers.generate import (
    generate_answers,
    read_references,
    resolve_max_new_tokens,
)
from tunesmith_evidence.answers.normalize import LabelReader, TextNormalizer
from tunesmith_evidence.statistics import row_contributions
from tunesmith_evidence.statistics.contributions import Matrix
from tunesmith_evidence.tasks.kinds import detect_task_kind

MAX_OTHER_ROWS = 20_000
"""Maximum number of training or validation rows to read labels from."""
FLOATS = 0.0, 1.0  # shared, because each call of float(True) makes an object of 24 bytes
ACCURACY, MACRO_F1 = "accuracy", "macro-f1"


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Reads a label from each answer and compares it with the reference label."""

    normalizer: TextNormalizer
    labels: tuple[str, ...] = ()
    """All labels. If the list is empty, the answers of all rows are used."""
    max_new_tokens: Literal["auto"] | int = "auto"
    references: tuple[str, ...] | None = None
    """Reference answers to take the labels from, or None for those of the measured rows."""
    others: tuple[str, ...] = ()
    """Answers of training and validation rows, which are labels too."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the labels and the token limit for these references."""
        limit = resolve_max_new_tokens(self.max_new_tokens, references)
        texts = tuple(read_references(references, "classification"))
        return replace(self, max_new_tokens=limit, references=texts)

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext
    ) -> Sequence[Measurement]:
        """Measure with the labels of all rows of the run.

        A label may be missing from the test rows. An answer that gives it must not be read as a
        test label that it contains: ``card lost`` is not ``card``.
        """
        if self.labels:
            return self.measure(model, records)
        parts = map(restore_loaded_groups, (run.train, run.validation))
        others = chain.from_iterable(map(_list_labels, parts))
        return replace(self, others=tuple(others)).measure(model, records)

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and read its label.

        Raises:
            DataError: an answer calls a tool, or a reference is not one of the labels.
        """
        references = read_references(records, "classification")
        reader, expected, labels = self._read_references(records, references)
        answers = generate_answers(model, records, self.max_new_tokens)
        predicted = [reader.read(answer) for answer in answers]
        right = tuple(float(p == e) for p, e in zip(predicted, expected, strict=True))
        classes = sorted({*labels, *expected})
        return [
            Measurement(
                metric=ACCURACY,
                values=right,
                outputs=answers,
                details=describe(expected, predicted) if records else {},
            ),
            measure_macro_f1(classes, expected, predicted),
        ]

    def _read_references(
        self, records: Sequence[Record], references: Sequence[str]
    ) -> tuple[LabelReader, list[str], list[str]]:
        """Return the label reader, the label of each reference, and all labels.

        Without ``labels``, each distinct spelling among the answers is a label. With ``labels``, a
        reference may have another spelling that matches a single label. Only labels of ``labels``
        or of the references are returned, because macro F1 needs no others.
        """
        named = references if self.references is None else self.references
        labels = [*(self.labels or self._find_all(named))]
        known = dict.fromkeys([*labels, *self._find_all(self.others)])
        reader, expected = LabelReader([*known], self.normalizer), []
        for record, reference in zip(records, references, strict=True):
            label = reader.match(reference)
            if label is None and self.labels:
                hint = "add this answer to `labels` of the `classification` evaluator"
                message = f"the answer {reference.strip()[:80]!r} is not a label"
                raise DataError(record.source, message, hint=hint)
            if label is None:
                label = self.normalizer.find(reference)
            if label is None:
                message = "the pattern `extract` does not match the reference answer"
                hint = "correct the pattern or this answer"
                raise DataError(record.source, message, hint=hint)
            expected.append(label)
        return reader, expected, labels

    def _find_all(self, answers: Sequence[str]) -> dict[str, None]:
        """Return the distinct parts of some answers that can be labels."""
        return dict.fromkeys(filter(None, map(self.normalizer.find, answers)))


def _list_labels(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the distinct answers of some rows, or () if they are not labels."""
    rows = records[:: -(-len(records) // MAX_OTHER_ROWS) or 1]
    answers = [answer.text for _, answer in map(last_exchange, rows) if not answer.tool_calls]
    return tuple(dict.fromkeys(answers)) if detect_task_kind(answers) == "classes" else ()


def count_outcomes(
    classes: Sequence[str], expected: Sequence[str], predicted: Sequence[str | None]
) -> list[tuple[float, ...]]:
    """Return three 0/1 columns per class for each row: correct, expected, and predicted."""
    rows = []
    for right, given in zip(expected, predicted, strict=True):
        rows.append(
            tuple(
                FLOATS[is_it]
                for name in classes
                for is_it in (name == right == given, name == right, name == given)
            )
        )
    return rows


def compute_macro_f1(counts: Matrix) -> Matrix:
    """Return macro F1 for each row of a matrix with three columns per class.

    The columns are sums over rows of the columns of :func:`count_outcomes`. The mean is over the
    classes that occur in the references. A class that is never predicted has an F1 of 0.
    """
    right, expected, predicted = counts[:, 0::3], counts[:, 1::3], counts[:, 2::3]
    used = expected > 0
    f1 = np.where(used, 2 * right / np.where(used, expected + predicted, 1), 0.0)
    return np.asarray(f1.sum(axis=1) / np.maximum(used.sum(axis=1), 1))


def measure_macro_f1(
    classes: Sequence[str], expected: Sequence[str], predicted: Sequence[str | None]
) -> Measurement:
    """Return macro F1 over the classes, with the contribution of each row.

    Rows of rare classes weigh more, so the interval reflects how few rows their F1 is based on.
    """
    sizes = Counter(expected)
    weights = tuple(len(expected) / (len(sizes) * sizes[label]) for label in expected)
    counts = count_outcomes(classes, expected, predicted)
    values = row_contributions(counts, compute_macro_f1, weights)
    return Measurement(metric=MACRO_F1, values=values, weights=weights, counts=tuple(counts))


def describe(expected: Sequence[str], predicted: Sequence[str | None]) -> dict[str, Any]:
    """Return precision, recall and F1 of each class, and the confusion matrix.

    The confusion matrix counts rows by expected and predicted label. The key ``""`` stands for
    answers without a label.
    """
    pairs = Counter(zip(expected, predicted, strict=True))
    predictions, references = Counter(predicted), Counter(expected)
    classes: dict[str, Any] = {}
    confusion: dict[str, dict[str, int]] = {}
    for label in sorted(references):
        right = pairs[label, label]
        classes[label] = {
            "rows": references[label],
            "precision": right / predictions[label] if predictions[label] else 0.0,
            "recall": right / references[label],
            "f1": 2 * right / (references[label] + predictions[label]),
        }
        found = {p or "": n for (e, p), n in pairs.items() if e == label}
        confusion[label] = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
    return {"classes": classes, "confusion": confusion, "no_label": predictions[None]}
