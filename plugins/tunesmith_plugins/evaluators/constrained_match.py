"""The ``constrained-match`` evaluator: measure how often the most probable label is correct.

Together with ``exact-match``, it separates two causes of incorrect answers. A model that has not
learned the task chooses wrong labels here as well. A model that only misses the format does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, field_validator

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import DataError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.prepared import RowWise
from tunesmith.records import Chat, Completion, Record, last_exchange

METRIC_NAME = "constrained-match"


class ConstrainedMatchOptions(Options):
    """Options of ``constrained-match``: the labels to choose from."""

    labels: list[str] = Field(
        min_length=2, description="All possible answers, exactly as written in the data."
    )

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, value: list[str]) -> list[str]:
        labels = [label.strip() for label in value]
        if "" in labels:
            raise ValueError("a label in the list is empty")
        if len(set(labels)) < len(labels):
            raise ValueError("a label occurs twice in the list")
        return labels


@dataclass(frozen=True)
class ConstrainedMatch(RowWise):
    """Scores 1 for a record if its answer is the most probable label, otherwise 0."""

    labels: tuple[str, ...]

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Choose a label for each record and compare it with the reference.

        Raises:
            DataError: the reference answer is not one of the labels.
        """
        from tunesmith_evidence.prompting.choice_model import ChoiceModel

        exchanges = [last_exchange(record) for record in records]
        expected = [answer.text.strip() for _, answer in exchanges]
        for record, answer in zip(records, expected, strict=True):
            if answer not in self.labels:
                hint = "add this answer to `labels` of the `constrained-match` evaluator"
                message = f"the answer {answer[:80]!r} is not a label"
                raise DataError(record.source, message, hint=hint)
        chosen = ChoiceModel(model, self.labels).generate([prompt for prompt, _ in exchanges], 1)
        outputs = tuple(generation.text for generation in chosen)
        values = tuple(float(o == e) for o, e in zip(outputs, expected, strict=True))
        return [Measurement(metric=METRIC_NAME, values=values, outputs=outputs)]


CONSTRAINED_MATCH = EvaluatorOffer(
    name="constrained-match",
    summary="share of correct answers when the model must choose one of the labels",
    config=ConstrainedMatchOptions,
    build=lambda options: ConstrainedMatch(tuple(options.labels)),
    metrics=(Metric(name=METRIC_NAME, higher_is_better=True, bounds=(0, 1)),),
    accepts=frozenset({Chat, Completion}),
)
