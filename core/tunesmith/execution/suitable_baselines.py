"""Choose the baselines that suit a run's rows, and the evaluators that can measure them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tunesmith.events import BaselineChosen
from tunesmith.fence import call_in_fence
from tunesmith.offers import BaselineOffer, EvaluatorOffer, Offered
from tunesmith.plan import Component, Plan
from tunesmith.records import Record, has_media

Baselines = Sequence[Component[BaselineOffer[Any]]]
SAMPLE_ROWS = 2_000
"""Number of training rows used to choose default baselines."""


def choose_baselines(
    plan: Plan, train: Sequence[Record], evaluator: Component[EvaluatorOffer[Any]] | None
) -> Baselines:
    """Return the baselines that the run file lists, or all suitable baselines, cheapest first.

    A baseline is suitable if it suits the rows or is configured, ``evaluator`` can measure it, and
    it can read the media of the rows. Listed baselines need not be suitable.
    """
    baselines = sorted(
        plan.baselines, key=lambda baseline: (baseline.offer.cost, baseline.offer.name)
    )
    if plan.baseline_options.use is not None or evaluator is None:
        return baselines
    sample, can_be_used = _take_sample(train), _create_filter(plan, train, evaluator)
    return [
        baseline
        for baseline in baselines
        if can_be_used(baseline.offer)
        and (
            call_in_fence(baseline.offered, "suits", baseline.offer.suits, sample)
            or call_in_fence(
                baseline.offered, "is_configured", baseline.offer.is_configured, baseline.config
            )
        )
    ]


def list_excluded(
    plan: Plan,
    offers: Iterable[Offered[BaselineOffer[Any]]],
    train: Sequence[Record],
    evaluator: Component[EvaluatorOffer[Any]],
) -> Iterator[BaselineChosen]:
    """Yield an event for each baseline that suits the rows but is not in ``[baselines] use``."""
    use = plan.baseline_options.use
    if use is None:
        return
    sample, named = _take_sample(train), {baseline.offer.name for baseline in plan.baselines}
    can_be_used = _create_filter(plan, train, evaluator)
    for offered in offers:
        offer = offered.offer
        is_other = offer.name not in named and can_be_used(offer)
        if is_other and call_in_fence(offered, "suits", offer.suits, sample):
            yield describe_choice(offer, skipped="[baselines] use does not name it", excluded=True)


def _create_filter(
    plan: Plan, train: Sequence[Record], evaluator: Component[EvaluatorOffer[Any]]
) -> Callable[[BaselineOffer[Any]], bool]:
    """Return a predicate: the evaluator can measure a baseline that can read the rows' media."""
    text_only = "media" not in plan.technique.offer.trains_on or not has_media(train)
    return lambda offer: can_measure(evaluator, offer) and (text_only or offer.reads_media)


def can_measure(evaluator: Component[EvaluatorOffer[Any]], offer: BaselineOffer[Any]) -> bool:
    """Return True unless the evaluator needs probabilities or answers that the baseline lacks."""
    if offer.ranks_answers:
        return evaluator.offer.ranks_answers
    return evaluator.offer.generates or offer.has_probabilities


def list_evaluators(
    evaluators: Sequence[Component[EvaluatorOffer[Any]]], baseline: Component[BaselineOffer[Any]]
) -> Sequence[Component[EvaluatorOffer[Any]]]:
    """Return the evaluators that measure a baseline.

    A baseline that queries the model is costly. Unless it is the reference, only evaluators of the
    first evaluator's kind measure it, because the first evaluator decides the verdict. The two
    kinds are evaluators that use answers and evaluators that use probabilities.
    """
    if baseline.offer.is_reference or not baseline.offer.needs_model:
        return [evaluator for evaluator in evaluators if can_measure(evaluator, baseline.offer)]
    return [e for e in evaluators if e.offer.generates == evaluators[0].offer.generates]


def _take_sample(train: Sequence[Record]) -> Sequence[Record]:
    return [train[row] for row in range(0, len(train), -(-len(train) // SAMPLE_ROWS) or 1)]


def describe_choice(offer: BaselineOffer[Any], **fields: Any) -> BaselineChosen:
    """Return the event about the choice of a baseline's variant."""
    return BaselineChosen(baseline=offer.name, solution=offer.solution, cost=offer.cost, **fields)
