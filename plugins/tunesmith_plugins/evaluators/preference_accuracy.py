"""The ``preference-accuracy`` evaluator: measure how often the chosen answer is more likely."""

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
from tunesmith_evidence.judging.equal_length import LengthControl, share_at_equal_length
from tunesmith_evidence.number_text import format_p_value, format_share
from tunesmith_evidence.statistics import paired_p_value
from tunesmith_evidence.tasks.kinds import are_pairs

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
        """Count pairs, given how much longer each preferred answer is than the other answer."""
        unequal = [(d, group) for d, group in zip(differences, groups, strict=True) if d]
        longer = [float(d > 0) for d, _ in unequal]
        shorter = [1 - value for value in longer]
        names = [group for _, group in unequal]
        p_value = paired_p_value(shorter, longer, groups=names) if unequal else 1.0
        return cls(int(sum(shorter)), int(sum(longer)), p_value)

    @property
    def word(self) -> str:
        """``shorter`` or ``longer``: the answers that are preferred more often."""
        return "shorter" if self.shorter > self.longer else "longer"

    @property
    def share(self) -> float:
        """The share of pairs of unequal length that prefer the answer of length :attr:`word`."""
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


METRIC = Metric(name="preference-accuracy", higher_is_better=True, bounds=(0, 1))
EQUAL_LENGTH = share_at_equal_length("equal-length-accuracy")


class PreferenceAccuracyOptions(Options):
    """Options of ``preference-accuracy``: how to compare the likelihoods of two answers."""

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
        """Return one value per pair, with details on how often the model prefers each length.

        Raises:
            DataError: a record is not a pair of answers.
        """
        pairs = [_require_pair(record) for record in records]
        prompts = [pair.prompt for pair in pairs]
        answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        scored = model.score([*prompts, *prompts], answers)
        values, preferred = [], []
        for good, bad in zip(scored[: len(pairs)], scored[len(pairs) :], strict=True):
            better, worse = self._score(good), self._score(bad)
            sign = (better > worse) - (better < worse)
            values.append((1 + sign) / 2)
            preferred.append(sign * (len(good.logprobs) - len(bad.logprobs)))
        control = LengthControl(values, preferred, [pair.group for pair in pairs])
        details = self._describe(control)
        return [
            Measurement(metric=METRIC.name, values=tuple(values), details=details),
            *control.measurements(EQUAL_LENGTH.name),
        ]

    def _describe(self, control: LengthControl) -> dict[str, object]:
        found = LengthPreference.count(control.differences, control.groups)
        details = {
            "shorter_likelier": found.shorter,
            "longer_likelier": found.longer,
            "sign_test_p_value": found.p_value,
            **control.details("the preferred answer is"),
        }
        if found.explains_most:
            hint = "; set length_normalized = true to compare means per token"
            is_sum = found.word == "shorter" and not self.options.length_normalized
            details["finding"] = (
                f"the {found.word} answer is more likely in {found}: this metric reflects length "
                f"more than preference{hint if is_sum else ''}"
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


PREFERENCE_ACCURACY = EvaluatorOffer(
    name="preference-accuracy",
    summary="share of pairs for which the model finds the chosen answer more likely",
    config=PreferenceAccuracyOptions,
    build=PreferenceAccuracy,
    metrics=(METRIC, EQUAL_LENGTH),
    accepts=frozenset({Preference}),
    default_for=are_pairs,
    ranks_answers=True,
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
            hint="compare with the `answer-length` baseline and with equal-length-accuracy, or use "
            "test pairs where both lengths are chosen about equally often",
            count=max(chosen.shorter, chosen.longer),
        )
