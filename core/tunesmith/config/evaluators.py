"""Choose the evaluators of a run, assign their ids, and check the metrics of ``[gate]``.

Two evaluators with the same name, such as ``exact-match`` with and without ``ignore_case``, measure
the same metric. The id distinguishes them in events, files, the report and ``[gate]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import Any

from tunesmith.catalog import Catalog
from tunesmith.errors import ConfigError, Problem
from tunesmith.fence import call_in_fence
from tunesmith.offers import EvaluatorOffer, Offered
from tunesmith.options import GateOptions
from tunesmith.plan import Component, Plan
from tunesmith.records import Record, has_media
from tunesmith.text import suggest_name

Evaluators = tuple[Component[EvaluatorOffer[Any]], ...]


def choose_evaluators(plan: Plan, catalog: Catalog, test: Sequence[Record]) -> Evaluators:
    """Return the evaluators of the plan, or the default evaluators for the test records.

    If ``run.side_effects`` is true, evaluators of side effects are added at the end, even if the
    plan lists evaluators. If the technique cannot score answers, only evaluators that the plan
    lists or that generate answers are returned.

    Raises:
        ConfigError: ``[gate]`` has a threshold that these evaluators cannot check.
    """
    named, technique = plan.evaluators, plan.technique
    evaluators = named or default_evaluators(catalog, test)
    if plan.run.side_effects:
        names = {evaluator.offer.name for evaluator in named}
        found = _list_defaults(catalog, test, side_effects=True)
        extra = [Component(o, o.offer.config()) for o in found if o.offer.name not in names]
        evaluators = assign_ids([*((e, e.id) for e in evaluators), *((e, None) for e in extra)])
    if not technique.offer.can_score(technique.config):
        evaluators = tuple(e for e in evaluators if e in named or e.offer.generates)
    problems = list(check_gate_metrics(plan.gate, evaluators))
    if problems:
        raise ConfigError(problems)
    return evaluators


def default_evaluators(catalog: Catalog, records: Sequence[Record]) -> Evaluators:
    """Return the default evaluators for the records; the first one decides the verdict.

    The verdict compares rows, so evaluators whose metrics need all rows at once come later.
    """
    offers = _list_defaults(catalog, records, side_effects=False)
    offers.sort(key=lambda o: not all(metric.is_row_mean for metric in o.offer.metrics))
    offers.sort(key=lambda o: not o.offer.metrics[0].higher_is_better)
    return assign_ids((Component(o, o.offer.config()), None) for o in offers)


def _list_defaults(
    catalog: Catalog, records: Sequence[Record], *, side_effects: bool
) -> list[Offered[EvaluatorOffer[Any]]]:
    text_only = side_effects or not has_media(records)
    return [
        o
        for o in catalog.offers(EvaluatorOffer)
        if o.offer.is_side_effect == side_effects
        and (text_only or o.offer.reads_media)
        and call_in_fence(o, "default_for", o.offer.default_for, records)
    ]


def assign_ids(
    evaluators: Iterable[tuple[Component[EvaluatorOffer[Any]], str | None]],
) -> Evaluators:
    """Assign each evaluator an id: the one in the run file, otherwise the name of its offer.

    If another evaluator already has that name as its id, a number is appended.
    """
    pairs = list(evaluators)
    taken = {own_id for _, own_id in pairs}
    found = []
    for evaluator, own_id in pairs:
        names = chain([evaluator.id], (f"{evaluator.id}-{number}" for number in count(2)))
        chosen = own_id or next(name for name in names if name not in taken)
        taken.add(chosen)
        found.append(replace(evaluator, id=chosen))
    return tuple(found)


def check_gate_metrics(gate: GateOptions, evaluators: Evaluators) -> Iterator[Problem]:
    """Yield a problem for each threshold of ``[gate]`` without exactly one matching evaluator.

    This check runs before training, so that a run with an impossible threshold does not train.
    """
    metrics = {e.id: [metric.name for metric in e.offer.metrics] for e in evaluators}
    for where, own_id, metric, _ in gate.bounds():
        measuring = [name for name in metrics if metric in metrics[name] and own_id in ("", name)]
        if own_id and own_id not in metrics:
            ids = ", ".join(metrics)
            yield Problem(where, f'no evaluator has the id "{own_id}"', f"ids: {ids}")
        elif len(measuring) > 1:
            keys = " or ".join(f"gate.at_least.{name}.{metric}" for name in measuring)
            yield Problem(where, "several evaluators measure this metric", f"write {keys}")
        elif not measuring:
            known = dict.fromkeys(name for names in metrics.values() for name in names)
            guess = suggest_name(metric, known)
            hint = f'did you mean "{guess}"?' if guess else f"measured: {', '.join(known)}"
            yield Problem(where, "no evaluator of this run measures this metric", hint)


def check_must_beat(gate: GateOptions, baselines: Sequence[str]) -> Iterator[Problem]:
    """Yield a problem for each baseline in ``must_beat`` that the run does not have."""
    earlier = {"base": "zero-shot", "few-shot": "random-shots"}
    for name in gate.must_beat:
        if name not in baselines:
            guess = earlier.get(name) or suggest_name(name, baselines)
            hint = f'did you mean "{guess}"?' if guess else f"baselines: {', '.join(baselines)}"
            what = f'no baseline of this run is called "{name}"'
            yield Problem("gate.must_beat", what, hint)
