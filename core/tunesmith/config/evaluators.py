"""Choose the evaluators of a run, give each its own id, and check the metrics of the gate.

Two evaluators of one name, such as ``exact-match`` with and without ``ignore_case``, measure the
same metric. The id distinguishes them in events, files, the report and the gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.catalog import Catalog
from tunesmith.errors import ConfigError, Problem
from tunesmith.offers import EvaluatorOffer
from tunesmith.options import GateOptions
from tunesmith.plan import Component, Plan
from tunesmith.records import Record
from tunesmith.text import suggest_name

Evaluators = tuple[Component[EvaluatorOffer[Any]], ...]


def choose_evaluators(plan: Plan, catalog: Catalog, heldout: Sequence[Record]) -> Evaluators:
    """Return the evaluators of the plan, or the default ones for the held-out records.

    Raises:
        ConfigError: the gate has a bound that the default evaluators cannot check.
    """
    if plan.evaluators:
        return plan.evaluators
    evaluators = default_evaluators(catalog, heldout)
    problems = list(check_gate_metrics(plan.gate, evaluators))
    if problems:
        raise ConfigError(problems)
    return evaluators


def default_evaluators(catalog: Catalog, records: Sequence[Record]) -> Evaluators:
    """Return the default evaluators for the records; the first one decides the verdict."""
    offers = [o for o in catalog.offers(EvaluatorOffer) if o.offer.default_for(records)]
    offers.sort(key=lambda o: not o.offer.metrics[0].higher_is_better)
    return assign_ids(Component(o, o.offer.config()) for o in offers)


def assign_ids(evaluators: Iterable[Component[EvaluatorOffer[Any]]]) -> Evaluators:
    """Return the evaluators, each with an id that no other one has.

    Ids of the run file stay. The others have the name of the offer, from the second one on with a
    number. Two evaluators with one id of the run file are not changed: see :func:`find_same_ids`.
    """
    evaluators = tuple(evaluators)
    taken = {evaluator.own_id for evaluator in evaluators if evaluator.own_id}
    found = []
    for evaluator in evaluators:
        if not evaluator.own_id:
            name, number = evaluator.offer.name, 1
            while (chosen := name if number == 1 else f"{name}-{number}") in taken:
                number += 1
            taken.add(chosen)
            evaluator = replace(evaluator, own_id="" if chosen == name else chosen)
        found.append(evaluator)
    return tuple(found)


def find_same_ids(ids: Sequence[str | None]) -> Iterator[Problem]:
    """Yield a problem for each id of the run file that an evaluator above has too."""
    for number, own_id in enumerate(ids):
        first = ids.index(own_id)
        if own_id is not None and first < number:
            yield Problem(
                f"evaluators.{number}.id",
                f'"{own_id}" is the id of evaluators.{first} too',
                "give each evaluator an id of its own",
            )


def check_gate_metrics(
    gate: GateOptions, evaluators: Sequence[Component[EvaluatorOffer[Any]]]
) -> Iterator[Problem]:
    """Yield a problem for each bound of the gate that no evaluator, or more than one, measures.

    So a run whose gate cannot be met does not train first.
    """
    ids = {
        evaluator.id: [metric.name for metric in evaluator.offer.metrics]
        for evaluator in evaluators
    }
    for own_id, metric, _ in gate.bounds():
        where = f"gate.at_least.{own_id}.{metric}" if own_id else f"gate.at_least.{metric}"
        if own_id and own_id not in ids:
            yield Problem(where, f'no evaluator has the id "{own_id}"', f"ids: {', '.join(ids)}")
            continue
        measuring = [name for name in ids if metric in ids[name] and own_id in ("", name)]
        if len(measuring) > 1:
            keys = " or ".join(f"gate.at_least.{name}.{metric}" for name in measuring)
            yield Problem(where, "several evaluators measure this metric", f"write {keys}")
        if not measuring:
            known = dict.fromkeys(name for names in ids.values() for name in names)
            guess = suggest_name(metric, known)
            hint = f'did you mean "{guess}"?' if guess else f"measured: {', '.join(known)}"
            yield Problem(where, "no evaluator of this run measures this metric", hint)
