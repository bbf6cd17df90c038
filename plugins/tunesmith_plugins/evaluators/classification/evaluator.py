"""Accuracy and macro F1 of answers that are labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith_evidence.answers.generate import generate_answers, read_references
from tunesmith_evidence.answers.normalize import LabelReader, TextNormalizer
from tunesmith_evidence.statistics import row_contributions
from tunesmith_evidence.statistics.contributions import Matrix

ACCURACY, MACRO_F1 = "accuracy", "macro-f1"


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Reads a label from each answer and compares it with that of the reference."""

    normalizer: TextNormalizer
    labels: tuple[str, ...] = ()
    """All labels; empty: those of the references."""
    max_new_tokens: Literal["auto"] | int = "auto"

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and read its label.

        Raises:
            DataError: an answer calls a tool, or a reference is not one of the labels.
        """
        references = read_references(records, "classification")
        reader, expected = self._read_references(records, references)
        answers = generate_answers(model, records, self.max_new_tokens)
        predicted = [reader.read(answer) for answer in answers]
        right = tuple(float(p == e) for p, e in zip(predicted, expected, strict=True))
        classes = sorted(set(expected))
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
    ) -> tuple[LabelReader, list[str]]:
        """Return the reader of labels and the label of each reference.

        Without ``labels``, references that are not written alike are different labels. With them,
        a reference may be written otherwise, as long as that names one of them only.
        """
        found = [self.normalizer.find(reference) for reference in references]
        labels = self.labels or [*dict.fromkeys(label for label in found if label is not None)]
        reader, expected = LabelReader(labels, self.normalizer), []
        for record, reference in zip(records, references, strict=True):
            label = reader.match(reference)
            if label is None and not self.labels:
                message = "the reference answer has nothing that `extract` finds"
                raise DataError(record.source, message)
            if label is None:
                hint = "add it to `labels` of classification"
                message = f"the answer {reference.strip()[:80]!r} is no label"
                raise DataError(record.source, message, hint=hint)
            expected.append(label)
        return reader, expected


def count_outcomes(
    classes: Sequence[str], expected: Sequence[str], predicted: Sequence[str | None]
) -> list[list[float]]:
    """Return the counts of each row: by class, if it was right, expected, and predicted."""
    rows = []
    for right, given in zip(expected, predicted, strict=True):
        rows.append(
            [
                float(is_it)
                for name in classes
                for is_it in (name == right == given, name == right, name == given)
            ]
        )
    return rows


def compute_macro_f1(counts: Matrix) -> Matrix:
    """Return macro F1 for each row of a matrix with three columns for each class.

    The columns are those of :func:`count_outcomes`, added up. The F1 of a class that
    is not predicted is 0.
    """
    right, expected, predicted = counts[:, 0::3], counts[:, 1::3], counts[:, 2::3]
    f1: Matrix = 2 * right / (expected + predicted)
    return np.asarray(f1.mean(axis=1))


def measure_macro_f1(
    classes: Sequence[str], expected: Sequence[str], predicted: Sequence[str | None]
) -> Measurement:
    """Return macro F1 over the classes, with the contribution of each row.

    A row of a rare class has more weight, so that the interval knows how few rows F1 rests on.
    """
    sizes = Counter(expected)
    weights = tuple(len(expected) / (len(classes) * sizes[label]) for label in expected)
    counts = count_outcomes(classes, expected, predicted)
    values = row_contributions(counts, compute_macro_f1, weights)
    return Measurement(metric=MACRO_F1, values=values, weights=weights)


def describe(expected: Sequence[str], predicted: Sequence[str | None]) -> dict[str, Any]:
    """Return precision, recall and F1 of each class, and the confusion of classes.

    The confusion has the number of rows by expected and predicted label; ``""`` is no label.
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
