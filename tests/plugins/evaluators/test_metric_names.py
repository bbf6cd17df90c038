"""Metrics are spelled like evaluators, with hyphens; underscores get a hint."""

from __future__ import annotations

import re

from tunesmith.catalog import Catalog
from tunesmith.config.evaluators import assign_ids, check_gate_metrics
from tunesmith.offers import EvaluatorOffer
from tunesmith.options import GateOptions
from tunesmith.plan import Component
from tunesmith.plugins import Selection, find_plugins


def test_each_metric_is_spelled_with_hyphens_and_underscores_get_a_hint() -> None:
    offers = Catalog(find_plugins(Selection(allowed=frozenset()))).offers(EvaluatorOffer)
    names = [metric.name for offered in offers for metric in offered.offer.metrics]
    assert len(names) > 20
    assert [name for name in names if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)] == []
    pairs = next(o for o in offers if o.offer.name == "preference-accuracy")
    evaluators = assign_ids([(Component(pairs, pairs.offer.config()), None)])
    gate = GateOptions.model_validate({"at_least": {"preference_accuracy": 0.6}})
    (problem,) = check_gate_metrics(gate, evaluators)
    assert problem.hint == 'did you mean "preference-accuracy"?'
