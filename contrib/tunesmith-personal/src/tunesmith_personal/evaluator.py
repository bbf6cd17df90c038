"""Evaluator ``user-gain``: judge every user's own adapter, and decide what each user is served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tunesmith.contracts import Measurement, RunContext, TextModel
from tunesmith.errors import UsageError
from tunesmith.prepared import RowWise
from tunesmith.records import Record
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_share
from tunesmith_evidence.tasks.examples import Example, read_examples
from tunesmith_personal.baselines import UserBaselines
from tunesmith_personal.evidence import (
    Gain,
    choose_baselines,
    compute_probabilities,
    decide_out_of_fold,
)
from tunesmith_personal.options import EvidenceOptions
from tunesmith_personal.store import OWN, Decision
from tunesmith_personal.technique import group_by_user
from tunesmith_personal.user_models import OneForAll, UserModels, open_base

Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""The scores of rows by user and model."""


@dataclass(frozen=True)
class PersonalEvaluator(RowWise):
    """Compares every user's adapter with the user's best baseline, by the run's first evaluator."""

    options: EvidenceOptions

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Raise an error, because only a run has a store of adapters."""
        raise UsageError(
            "user-gain measures the adapters in a run folder",
            hint="evaluate a run folder, or remove this evaluator",
        )

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext
    ) -> Sequence[Measurement]:
        """Choose each user's baseline on validation rows, and decide on the records.

        The decisions are stored beside the adapters. Nothing is measured outside of a run, and on
        baselines.
        """
        models = UserModels.find(model, run)
        if models is None or run.measure_first is None:
            return []
        people, held = group_by_user(records), group_by_user(run.validation)
        candidates = Candidates.open(model, models, run, self.options)
        names = list(dict.fromkeys(self.options.baselines))
        test: dict[str, dict[str, list[float]]] = {user: {} for user in people}
        validation: dict[str, dict[str, list[float]]] = {user: {} for user in people}
        for user, rows in people.items():
            for name in dict.fromkeys([OWN, "shared", *names]):
                built = candidates.build(user, name)
                test[user][name] = candidates.measure(built, rows)
                if name in names:
                    validation[user][name] = candidates.measure(built, held.get(user, ()))
        chosen = {
            user: name if candidates.examples(user) else "shared"
            for user, name in choose_baselines(validation, names).items()
        }
        differences = {
            user: [o - b for o, b in zip(test[user][OWN], test[user][chosen[user]], strict=True)]
            for user in people
            if user in candidates.own
        }
        gains = {user: Gain.measure(values) for user, values in differences.items()}
        probabilities = compute_probabilities(differences)
        served = {
            user: OWN if probabilities.get(user, 0.0) >= self.options.probability else chosen[user]
            for user in people
        }
        models.store.record_decisions(
            [
                Decision(
                    user=user,
                    served=name,
                    probability=probabilities.get(user),
                    interval=gains[user].interval if user in gains else (None, None),
                    k=self.options.k,
                    examples=() if name in (OWN, "shared") else candidates.examples(user),
                )
                for user, name in served.items()
            ]
        )
        is_own = decide_out_of_fold(differences, self.options.probability)
        scores = {
            user: [
                own if row_is_own else other
                for own, other, row_is_own in zip(
                    test[user][OWN],
                    test[user][chosen[user]],
                    is_own.get(user, [False] * len(people[user])),
                    strict=True,
                )
            ]
            for user in people
        }
        details = summarize(served, probabilities, test)
        others = [record for record in records if record.group is None]
        plain = dict(zip(others, candidates.measure(model, others), strict=True))
        return [
            Measurement(metric=metric, values=join_values(records, plain, values), details=facts)
            for metric, values, facts in (
                ("served", scores, details),
                (OWN, {u: test[u][OWN] for u in people}, {}),
            )
        ]


@dataclass(frozen=True)
class Candidates:
    """The models that can answer a user: the own adapter, and the baselines."""

    run: RunContext
    models: UserModels
    shared: TextModel
    """The run's model with the shared adapter, whose answers may be cached."""
    baselines: UserBaselines
    k: int
    train: Mapping[str, Sequence[Record]]
    own: frozenset[str]
    """The users that have an own adapter."""

    @classmethod
    def open(
        cls, shared: TextModel, models: UserModels, run: RunContext, options: EvidenceOptions
    ) -> Candidates:
        """List the users that have an own adapter."""
        own = frozenset(entry.user for entry in models.store.entries() if entry.has_adapter)
        baselines = UserBaselines(shared, open_base(models.shared, models.layout))
        return cls(run, models, shared, baselines, options.k, group_by_user(run.train), own)

    def build(self, user: str, name: str) -> TextModel:
        """Return a user's own adapter, or one of the user's baselines."""
        if name != OWN:
            return self.baselines.build(name, self.examples(user), self.k)
        return self.models.open(user) or self.shared

    def examples(self, user: str) -> Sequence[Example]:
        """Return the rows from which the user's baselines are built."""
        return read_examples(self.train.get(user, ()))

    def measure(self, model: TextModel, records: Sequence[Record]) -> list[float]:
        """Return the scores of the records by the run's first evaluator.

        Raises:
            UsageError: the scores are not between 0 and 1.
        """
        if not records:
            return []
        assert self.run.measure_first is not None
        values = list(self.run.measure_first(OneForAll(model), records).values)
        if not all(0 <= value <= 1 for value in values):
            raise UsageError(
                "user-gain: the first evaluator must rate each answer from 0 to 1",
                hint="list such an evaluator first, for example exact-match",
            )
        return values


def join_values(
    records: Sequence[Record],
    plain: Mapping[Record, float],
    by_user: Mapping[str, Sequence[float]],
) -> tuple[float, ...]:
    """Return the values in the order of the records."""
    left = {user: iter(values) for user, values in by_user.items()}
    return tuple(plain[r] if r.group is None else next(left[r.group]) for r in records)


def summarize(
    served: Mapping[str, str], probabilities: Mapping[str, float], test: Scores
) -> dict[str, Any]:
    """Return the counts, mean scores and risk of the decisions; they name no user."""
    counts = Counter(served.values())
    own = [user for user, name in served.items() if name == OWN]
    harmed = sum(1 - probabilities[user] for user in own) / max(1, len(served))
    scores = {
        name: fmean(value for by_name in test.values() for value in by_name[name])
        for name in next(iter(test.values()), {})
    }
    parts = [f"{n} get {name}" for name, n in counts.most_common() if name != OWN]
    finding = f"{len(own)} of {format_count(len(served), 'user')} get an own adapter"
    if own:
        finding += f" (expected share of users harmed by that: {format_share(harmed)})"
    return {
        "finding": "; ".join([finding, *parts]),
        "served": dict(counts),
        "expected_share_harmed": harmed,
        "mean_scores": scores,
        "users_with_adapter": len(probabilities),
    }
