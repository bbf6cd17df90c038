"""The offer and the measurement: the share of pairs whose chosen answer is the likelier one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from tunesmith.contracts import Evaluator, Measurement, TextModel, TokenScores
from tunesmith.errors import DataError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.records import Preference, Record

METRIC = Metric(name="preference_accuracy", higher_is_better=True)


class PreferenceAccuracyOptions(Options):
    """What counts as likelier."""

    length_normalized: bool = Field(
        False,
        description=(
            "Compare mean log-probabilities per token instead of those of whole answers, "
            "so that a longer answer is not less likely for its length alone."
        ),
    )


class PreferenceAccuracy:
    """1 where the chosen answer is likelier than the rejected one, 1/2 for a tie, else 0."""

    def __init__(self, options: PreferenceAccuracyOptions) -> None:
        self.options = options

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """One value for each pair.

        Raises:
            DataError: a record is not a pair of answers.
        """
        pairs = [_pair(record) for record in records]
        prompts = [pair.prompt for pair in pairs]
        answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        scores = [self._score(s) for s in model.score([*prompts, *prompts], answers)]
        compared = zip(scores[: len(pairs)], scores[len(pairs) :], strict=True)
        values = tuple(0.5 if good == bad else float(good > bad) for good, bad in compared)
        return [Measurement(metric=METRIC.name, values=values)]

    def _score(self, scores: TokenScores) -> float:
        total = math.fsum(scores.logprobs)
        return total / len(scores.logprobs) if self.options.length_normalized else total


def _pair(record: Record) -> Preference:
    if not isinstance(record, Preference):
        what = f"preference-accuracy needs pairs of answers, this is a {type(record).__name__}"
        raise DataError(record.source, what)
    return record


def build(options: PreferenceAccuracyOptions) -> Evaluator:
    """The evaluator."""
    return PreferenceAccuracy(options)


def suits(records: Sequence[Record]) -> bool:
    """Whether all records are pairs of answers."""
    return bool(records) and all(isinstance(record, Preference) for record in records)


PREFERENCE_ACCURACY = EvaluatorOffer(
    name="preference-accuracy",
    summary="how often the model finds the better answer of a pair likelier",
    config=PreferenceAccuracyOptions,
    build=build,
    metrics=(METRIC,),
    suits=suits,
)
