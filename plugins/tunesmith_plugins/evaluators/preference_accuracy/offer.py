"""Offer and evaluator of ``preference-accuracy``: how often the chosen answer is likelier."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from tunesmith.contracts import Evaluator, Measurement, TextModel, TokenScores
from tunesmith.errors import DataError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.prepared import RowWise
from tunesmith.records import Preference, Record
from tunesmith_plugins.evaluators.preference_accuracy.length import LengthPreference

METRIC = Metric(name="preference_accuracy", higher_is_better=True, bounds=(0, 1))


class PreferenceAccuracyOptions(Options):
    """Options: how the likelihoods of two answers are compared."""

    length_normalized: bool = Field(
        False,
        description=(
            "Compare mean log-probabilities per token instead of sums over the answer, so that "
            "a longer answer is not less likely only because it is longer."
        ),
    )


class PreferenceAccuracy(RowWise):
    """Scores 1 if the chosen answer is likelier than the rejected one, 1/2 for a tie, else 0."""

    def __init__(self, options: PreferenceAccuracyOptions) -> None:
        self.options = options

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return one value per pair; the details say how often the model prefers a length.

        Raises:
            DataError: a record is not a pair of answers.
        """
        pairs = [_require_pair(record) for record in records]
        prompts = [pair.prompt for pair in pairs]
        answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        scored = model.score([*prompts, *prompts], answers)
        lengths = [len(scores.logprobs) for scores in scored]
        scores = [self._score(s) for s in scored]
        values, preferred = [], []
        for good, bad in zip(range(len(pairs)), range(len(pairs), len(scored)), strict=True):
            sign = (scores[good] > scores[bad]) - (scores[good] < scores[bad])
            values.append((1 + sign) / 2)
            preferred.append(sign * (lengths[good] - lengths[bad]))
        found = LengthPreference.count(preferred, [pair.group for pair in pairs])
        return [
            Measurement(metric=METRIC.name, values=tuple(values), details=self._describe(found))
        ]

    def _describe(self, found: LengthPreference) -> dict[str, object]:
        details: dict[str, object] = {
            "shorter_likelier": found.shorter,
            "longer_likelier": found.longer,
            "sign_test_p_value": found.p_value,
        }
        if found.explains_most:
            details["finding"] = (
                f"the {found.word} answer is the likelier one in {found}: this measures length "
                "more than preference"
            )
            if found.word == "shorter" and not self.options.length_normalized:
                details["finding"] = (
                    f"{details['finding']}; length_normalized = true compares means per token"
                )
        return details

    def _score(self, scores: TokenScores) -> float:
        total = math.fsum(scores.logprobs)
        return total / len(scores.logprobs) if self.options.length_normalized else total


def _require_pair(record: Record) -> Preference:
    if not isinstance(record, Preference):
        message = f"preference-accuracy needs pairs of answers, this is a {type(record).__name__}"
        raise DataError(record.source, message)
    return record


def build(options: PreferenceAccuracyOptions) -> Evaluator:
    """Build the evaluator."""
    return PreferenceAccuracy(options)


def are_pairs(records: Sequence[Record]) -> bool:
    """Return True if all records are pairs of answers."""
    return bool(records) and all(isinstance(record, Preference) for record in records)


PREFERENCE_ACCURACY = EvaluatorOffer(
    name="preference-accuracy",
    summary="share of pairs for which the model finds the chosen answer likelier",
    config=PreferenceAccuracyOptions,
    build=build,
    metrics=(METRIC,),
    accepts=frozenset({Preference}),
    default_for=are_pairs,
    scores_references=True,
)
