"""Checks of techniques that accept additions to the training: the additions take effect.

The additions here have some methods of the toolkit's ``TrainingAddition``. They only compute with
the tensors that they get, so the kit does not import a tensor library.
"""

from __future__ import annotations

import math
from typing import Any

from tunesmith.additions import Addition
from tunesmith.testing.checks import NotApplicable, Subject, check, require
from tunesmith.testing.techniques.setup import TrainingRun, TrainingSetup, train_once

PULL_FACTOR = 100.0
"""Weight of the squared distance from the initial weights. The loss has the weight 1."""
MAX_DISTANCE_RATIO = 0.95
"""With the pull, the weights must move less than this fraction of their distance without it."""
SCORE_TOLERANCE = 1e-5
"""Maximum difference of equal scores, in nats."""


class Spectator:
    """An addition that adds nothing and remembers the initial weights."""

    def __init__(self, context: Any) -> None:
        self.parameters = context.parameters
        self.start = {name: p.detach().clone() for name, p in self.parameters.items()}

    def squared_distance(self) -> Any:
        """Return the squared distance of the weights from their initial values."""
        pairs = ((p.float(), self.start[name]) for name, p in self.parameters.items())
        return sum(((p - start) ** 2).sum() for p, start in pairs)


class Pull(Spectator):
    """Adds a term that pulls the weights toward their initial values."""

    def term(self, items: Any) -> Any:
        return PULL_FACTOR * self.squared_distance()


class Freeze(Spectator):
    """Undoes each update."""

    def transform_update(self, update: Any) -> None:
        for name, weight in update.after.items():
            weight.copy_(update.before[name])


@check("technique")
def applies_added_terms(subject: Subject) -> None:
    """A loss term that a table adds changes the weights; an addition without effect does not."""
    _require_accepting(subject)
    _, first, _ = train_once(subject)
    watched, free = _train_with(subject, Spectator)
    require(
        not subject.offer.promises.deterministic or watched.losses() == first.losses(),
        "the losses differ with an addition that does nothing",
    )
    _, pulled = _train_with(subject, Pull)
    require(
        pulled < MAX_DISTANCE_RATIO * free,
        f"the weights move by {free:.4g}, and by {pulled:.4g} with a term that pulls them back",
    )


@check("technique")
def applies_changes_of_updates(subject: Subject) -> None:
    """If an addition undoes each update, the trained model equals the base model."""
    _require_accepting(subject)
    training, moved = _train_with(subject, Freeze)
    require(not moved, f"the weights move by {moved:.4g}, although each update is undone")
    setup, artifact = TrainingSetup.of(subject), training.artifact
    assert artifact is not None
    pairs = zip(setup.scores(None), setup.scores(artifact.path), strict=True)
    require(
        all(math.isclose(a, b, abs_tol=SCORE_TOLERANCE) for a, b in pairs),
        "the saved model scores differently from the base model, although each update is undone",
    )


def _require_accepting(subject: Subject) -> None:
    if not subject.offer.accepts_additions:
        raise NotApplicable("the technique does not accept additions")


def _train_with(subject: Subject, kind: type[Spectator]) -> tuple[TrainingRun, float]:
    """Train with an addition of this class; return the training and the distance of the weights."""
    built: list[Spectator] = []

    def build(context: Any) -> Spectator:
        built.append(kind(context))
        return built[-1]

    addition = Addition(build=build, table="kit")
    training = TrainingSetup.of(subject).train(kind.__name__.lower(), additions=(addition,))
    require(bool(built), "the technique does not build the additions of its job")
    return training, math.sqrt(sum(float(part.squared_distance().detach()) for part in built))
