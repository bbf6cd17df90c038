"""Test whether adapters reveal which of a user's rows they were trained on.

An attacker who has an adapter and some rows compares the loss of each row before and after
training, because the loss of trained rows falls more. This is the test of Yeom et al. 2018,
*Privacy Risk in Machine Learning*. The loss before training calibrates it, as in Carlini et al.
2022, *Membership Inference Attacks From First Principles*. The split is random, so a user's test
rows differ from the training rows only in that they were not trained on. Rows of different users
are not compared.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np

from tunesmith.contracts import TextModel
from tunesmith.errors import UsageError
from tunesmith.execution.run_data import load_data
from tunesmith.plan import Plan
from tunesmith.records import Record, last_exchange
from tunesmith_evidence.statistics.ranks import probability_below
from tunesmith_personal.segments import Layout
from tunesmith_personal.store import OWN, Store
from tunesmith_personal.technique import SHARED_ADAPTER, group_by_user, open_shared
from tunesmith_personal.user_models import UserModels, open_base

FALSE_ALARMS = 0.05
POWER = 0.8
Drops = tuple[Sequence[float], Sequence[float]]
"""The falls of the loss on a user's training rows and test rows, in nats per token."""


@dataclass(frozen=True, kw_only=True)
class Membership:
    """The result of a test that separates training rows from test rows of the same user."""

    users: int
    auc: float
    """Probability that the loss of a training row falls more than that of a test row."""
    low: float
    """Bounds of the 95 % interval of ``auc`` over users."""
    high: float
    detectable: float
    """The smallest ``auc`` above 0.5 that a test with these users finds in 80 % of cases."""
    recognized: float
    """Share of training rows that are recognized if 5 % of the test rows are mistaken for them."""


def measure_membership(run: Path, plan: Plan, most_users: int) -> dict[str, Membership]:
    """Return what the shared adapter and the own adapters of a run reveal.

    Raises:
        UsageError: fewer than two users have training rows and test rows.
    """
    options: Any = plan.technique.config
    parts, store = load_data(plan)[1], Store(run)
    train, test = group_by_user(parts.train), group_by_user(parts.test)
    layout = Layout.read(run / SHARED_ADAPTER)[0]
    opened = open_shared(plan.found_model.fetch(), run / SHARED_ADAPTER, options, plan.run.device)
    shared: Any = opened
    models, base = UserModels(shared, layout, store), open_base(shared, layout)
    known = [entry.user for entry in store.entries() if entry.user in train.keys() & test.keys()]
    users = random.Random(0).sample(known, min(most_users, len(known)))

    def measure(user: str, before: TextModel, after: TextModel) -> Drops:
        known, other = (_measure_drops(before, after, rows[user]) for rows in (train, test))
        return known, other

    def measure_own() -> Iterator[Drops]:
        for user in users:
            if (own := models.open(user)) is not None:
                yield measure(user, shared, own)

    drops = {"shared": [measure(user, base, shared) for user in users], OWN: [*measure_own()]}
    found = {name: estimate_membership(each) for name, each in drops.items() if len(each) > 1}
    if not found:
        raise UsageError(
            f"{run}: a membership test needs two users with training rows and test rows",
            hint='train with [split] use = "per-user"',
        )
    return found


def _measure_drops(before: TextModel, after: TextModel, records: Sequence[Record]) -> list[float]:
    """Return how much the loss of each record's last answer falls, in nats per token."""
    prompts, answers = zip(*map(last_exchange, records), strict=True)
    losses = [
        [-fmean(scores.logprobs or (0.0,)) for scores in model.score(prompts, answers)]
        for model in (before, after)
    ]
    return [first - second for first, second in zip(*losses, strict=True)]


def estimate_membership(users: Sequence[Drops]) -> Membership:
    """Return the result of separating each user's training rows from test rows by their drops."""
    areas = [probability_below(other, known) for known, other in users]
    auc, error = fmean(areas), stdev(areas) / len(areas) ** 0.5
    z, z_power = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(POWER)
    threshold = np.quantile([drop for _, other in users for drop in other], 1 - FALSE_ALARMS)
    return Membership(
        users=len(users),
        auc=auc,
        low=max(0.0, auc - z * error),
        high=min(1.0, auc + z * error),
        detectable=min(1.0, 0.5 + (z + z_power) * error),
        recognized=fmean(float(drop > threshold) for known, _ in users for drop in known),
    )
