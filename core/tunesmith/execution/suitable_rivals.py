"""The rivals of a run: those that suit its rows, and the evaluators that can measure them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tunesmith.events import RivalChosen
from tunesmith.fence import ask
from tunesmith.offers import EvaluatorOffer, Offered, RivalOffer
from tunesmith.plan import Component, Plan
from tunesmith.records import Record

Rivals = Sequence[Component[RivalOffer[Any]]]
SAMPLE = 2_000
"""Number of training rows by which default rivals are chosen."""


def choose_rivals(
    plan: Plan, train: Sequence[Record], evaluator: Component[EvaluatorOffer[Any]] | None
) -> Rivals:
    """Return the rivals of a run, the cheapest first: the named ones, or those that suit the rows.

    One whose answers ``evaluator`` cannot measure is not among them unless it is named.
    """
    rivals = sorted(plan.rivals, key=lambda rival: (rival.offer.cost, rival.offer.name))
    if plan.baselines.use is not None or evaluator is None:
        return rivals
    sample = _take_sample(train)
    return [
        rival
        for rival in rivals
        if can_measure(evaluator, rival.offer)
        and (
            ask(rival.offered, "suits", rival.offer.suits, sample)
            or ask(rival.offered, "is_configured", rival.offer.is_configured, rival.config)
        )
    ]


def list_excluded(
    plan: Plan,
    offers: Iterable[Offered[RivalOffer[Any]]],
    train: Sequence[Record],
    evaluator: Component[EvaluatorOffer[Any]],
) -> Iterator[RivalChosen]:
    """Yield an event for each rival that suits the rows, and that the run file does not name."""
    use = plan.baselines.use
    if use is None:
        return
    sample, named = _take_sample(train), {rival.offer.name for rival in plan.rivals}
    for offered in offers:
        offer = offered.offer
        is_other = offer.name not in named and can_measure(evaluator, offer)
        if is_other and ask(offered, "suits", offer.suits, sample):
            yield describe_choice(offer, skipped="[baselines] use does not name it", excluded=True)


def can_measure(evaluator: Component[EvaluatorOffer[Any]], offer: RivalOffer[Any]) -> bool:
    """Return True if an evaluator can measure a rival: a classifier has no probabilities."""
    return evaluator.offer.generates or offer.has_probabilities


def list_evaluators(
    evaluators: Sequence[Component[EvaluatorOffer[Any]]], rival: Component[RivalOffer[Any]]
) -> Sequence[Component[EvaluatorOffer[Any]]]:
    """Return the evaluators that measure a rival.

    A prompt with examples is costly. The first evaluator decides, so only those measure it, unless
    it is the reference, that ask for answers or for probabilities as the first one does.
    """
    if rival.offer.is_reference or not rival.offer.needs_model:
        return [evaluator for evaluator in evaluators if can_measure(evaluator, rival.offer)]
    return [e for e in evaluators if e.offer.generates == evaluators[0].offer.generates]


def _take_sample(train: Sequence[Record]) -> Sequence[Record]:
    return [train[row] for row in range(0, len(train), -(-len(train) // SAMPLE) or 1)]


def describe_choice(offer: RivalOffer[Any], **fields: Any) -> RivalChosen:
    """Return the event about the choice of a rival's variant."""
    return RivalChosen(rival=offer.name, solution=offer.solution, cost=offer.cost, **fields)
