"""Evaluator ``preference-accuracy``: share of pairs whose chosen answer is more likely."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from tunesmith.contracts import Finding, Measurement, TextModel, TokenScores
from tunesmith.errors import DataError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.plan import Plan
from tunesmith.prepared import RowWise
from tunesmith.records import Preference, Record
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_p_value, format_share
from tunesmith_evidence.statistics import paired_p_value

MIN_SHARE, MAX_P_VALUE = 2 / 3, 0.01
"""Warn if length explains at least this share of the pairs, with at most this p-value."""


@dataclass(frozen=True)
class LengthPreference:
    """Counts how often the shorter and the longer answer of a pair is preferred."""

    shorter: int
    longer: int
    p_value: float
    """p-value of a two-sided sign test against equal frequency; a group counts as one trial."""

    @classmethod
    def count(cls, differences: Sequence[int], groups: Sequence[str | None]) -> LengthPreference:
        """Count pairs, given the length of each preferred answer minus that of the other one."""
        unequal = [(d, group) for d, group in zip(differences, groups, strict=True) if d]
        longer = [float(d > 0) for d, _ in unequal]
        shorter = [1 - value for value in longer]
        names = [group for _, group in unequal]
        p_value = paired_p_value(shorter, longer, groups=names) if unequal else 1.0
        return cls(int(sum(shorter)), int(sum(longer)), p_value)

    @property
    def word(self) -> str:
        """The length that is preferred more often."""
        return "shorter" if self.shorter > self.longer else "longer"

    @property
    def share(self) -> float:
        """Share of pairs, among those of unequal length, where this length is preferred."""
        total = self.shorter + self.longer
        return max(self.shorter, self.longer) / total if total else 0.0

    @property
    def explains_most(self) -> bool:
        """True if length explains most pairs, and significantly more than chance would."""
        return self.share >= MIN_SHARE and self.p_value <= MAX_P_VALUE

    def __str__(self) -> str:
        count, total = max(self.shorter, self.longer), self.shorter + self.longer
        test = f"{format_share(self.share)}, sign test {format_p_value(self.p_value)}"
        return f"{count:,} of {format_count(total, 'pair')} of unequal length ({test})"


METRIC = Metric(name="preference_accuracy", higher_is_better=True, bounds=(0, 1))


class PreferenceAccuracyOptions(Options):
    """Options for comparing the likelihoods of two answers."""

    length_normalized: bool = Field(
        False,
        description=(
            "Compare mean log-probabilities per token instead of sums over the answer. Sums "
            "favor short answers."
        ),
    )


class PreferenceAccuracy(RowWise):
    """Scores 1 if the chosen answer is more likely than the rejected one, 1/2 for a tie, else 0."""

    def __init__(self, options: PreferenceAccuracyOptions) -> None:
        self.options = options

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return one value per pair; the details count how often the model prefers each length.

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
                f"the {found.word} answer is more likely in {found}: this metric reflects length "
                "more than preference"
            )
            if found.word == "shorter" and not self.options.length_normalized:
                details["finding"] = (
                    f"{details['finding']}; set length_normalized = true to compare means per token"
                )
        return details

    def _score(self, scores: TokenScores) -> float:
        total = math.fsum(scores.logprobs)
        return total / len(scores.logprobs) if self.options.length_normalized else total


def _require_pair(record: Record) -> Preference:
    if not isinstance(record, Preference):
        message = (
            "preference-accuracy needs pairs of answers, but this record is a "
            f"{type(record).__name__}"
        )
        raise DataError(record.source, message)
    return record


def are_pairs(records: Sequence[Record]) -> bool:
    """Return True if all records are pairs of answers."""
    return bool(records) and all(isinstance(record, Preference) for record in records)


PREFERENCE_ACCURACY = EvaluatorOffer(
    name="preference-accuracy",
    summary="share of pairs for which the model finds the chosen answer more likely",
    config=PreferenceAccuracyOptions,
    build=PreferenceAccuracy,
    metrics=(METRIC,),
    accepts=frozenset({Preference}),
    default_for=are_pairs,
    scores_references=True,
)


def review(plan: Plan, test: Sequence[Record]) -> Iterator[Finding]:
    """Yield a warning if always choosing one length would be correct for most pairs."""
    is_named = any(isinstance(e.config, PreferenceAccuracyOptions) for e in plan.evaluators)
    if not is_named and (plan.evaluators or not are_pairs(test)):
        return
    pairs = [record for record in test if isinstance(record, Preference)]
    chosen = LengthPreference.count(
        [len(pair.chosen) - len(pair.rejected) for pair in pairs], [pair.group for pair in pairs]
    )
    if chosen.explains_most:
        yield Finding(
            level="warning",
            where="evaluators preference-accuracy",
            message=f"in the test rows, the {chosen.word} answer is the chosen one in {chosen}: "
            f"a model that always prefers {chosen.word} answers reaches that accuracy",
            hint="compare preference-accuracy with this share, or use test pairs where the "
            "longer and the shorter answer are chosen about equally often",
            count=max(chosen.shorter, chosen.longer),
        )
