"""Every evaluator of a run has an id of its own, and the gate names what is measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bench import RIGHT, Bench, catalog_of, offering

from tunesmith.config.evaluators import assign_ids, choose_evaluators, default_evaluators
from tunesmith.errors import ConfigError
from tunesmith.offers import Metric
from tunesmith.plan import Plan
from tunesmith.records import Text

RECORDS = [Text(source="f:1", text="a")]


def ids(plan: Plan) -> list[str]:
    return [evaluator.id for evaluator in plan.evaluators]


def problems(bench: Bench, **changes: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        bench.plan(**changes)
    return {p.where: f"{p.what} {p.hint or ''}".strip() for p in caught.value.problems}


def test_the_id_is_the_name_unless_the_run_file_has_another(bench: Bench) -> None:
    assert ids(bench.plan(evaluators=[{"use": "right"}])) == ["right"]
    assert ids(bench.plan(evaluators=[{"use": "file:bench:right"}])) == ["right"]
    assert ids(bench.plan(evaluators=[{"use": "right", "id": "strict"}])) == ["strict"]


def test_further_evaluators_of_one_name_are_numbered(bench: Bench) -> None:
    tables: list[dict[str, Any]] = [{"use": "right", "limit": n} for n in (1, 2, 3)]
    assert ids(bench.plan(evaluators=tables)) == ["right", "right-2", "right-3"]
    tables[0]["id"] = "right-2"
    assert ids(bench.plan(evaluators=tables)) == ["right-2", "right", "right-3"]
    tables[2]["id"] = "right"
    assert ids(bench.plan(evaluators=tables)) == ["right-2", "right-3", "right"]


def test_an_id_is_stored_only_where_it_differs_from_the_name(bench: Bench) -> None:
    stored = bench.plan(evaluators=[{"use": "right"}, {"use": "right"}]).to_json()["evaluators"]
    assert "id" not in stored[0] and stored[1]["id"] == "right-2"


def test_an_id_that_two_evaluators_have_is_refused(bench: Bench) -> None:
    same = [{"use": "right", "id": "a"}, {"use": "right"}, {"use": "right", "id": "a"}]
    assert problems(bench, evaluators=same) == {
        "evaluators.2.id": '"a" is already the id of evaluators.0 give each evaluator its own id'
    }


@pytest.mark.parametrize("value", ["", "a b", "../x", "a.b", 3, ["a"]])
def test_an_id_is_a_plain_name(bench: Bench, value: object) -> None:
    assert list(problems(bench, evaluators=[{"use": "right", "id": value}])) == ["evaluators.0.id"]


def test_defaults_of_two_plugins_with_one_name_have_ids_of_their_own() -> None:
    catalog = catalog_of(other=offering("evaluators", RIGHT))
    assert [e.id for e in default_evaluators(catalog, RECORDS)] == ["right", "right-2"]
    assert assign_ids([]) == ()


def test_a_bound_names_a_metric_that_one_evaluator_measures(bench: Bench) -> None:
    two = [{"use": "right"}, {"use": "right", "id": "lenient"}]
    bound = problems(bench, evaluators=two, gate={"at_least": {"right": 0.5}})
    assert bound == {
        "gate.at_least.right": "several evaluators measure this metric "
        "write gate.at_least.right.right or gate.at_least.lenient.right"
    }
    for name in ("right", "lenient"):
        plan = bench.plan(evaluators=two, gate={"at_least": {name: {"right": 0.5}}})
        key = f"gate.at_least.{name}.right"
        assert [*plan.gate.bounds()] == [(key, name, "right", 0.5)]
    assert problems(bench, evaluators=two, gate={"at_least": {"lenient": {"wrong": 0.5}}}) == {
        "gate.at_least.lenient.wrong": "no evaluator of this run measures this metric "
        "measured: right"
    }
    assert problems(bench, evaluators=two, gate={"at_least": {"strict": {"right": 0.5}}}) == {
        "gate.at_least.strict.right": 'no evaluator has the id "strict" ids: right, lenient'
    }


def test_a_bound_on_a_metric_that_nothing_measures_is_refused_before_training(
    bench: Bench,
) -> None:
    gate = {"at_least": {"rigth": 0.5}}
    assert problems(bench, evaluators=[{"use": "right"}], gate=gate) == {
        "gate.at_least.rigth": 'no evaluator of this run measures this metric did you mean "right"?'
    }
    plan = bench.plan(gate=gate)
    with pytest.raises(ConfigError, match=r"gate\.at_least\.rigth"):
        choose_evaluators(plan, bench.catalog, RECORDS)


def test_a_bound_is_checked_against_the_default_evaluators(bench: Bench) -> None:
    metrics = (Metric(name="right", higher_is_better=True),)
    bench.catalog = catalog_of(
        other=offering("evaluators", replace(RIGHT, name="similar", metrics=metrics))
    )
    plan = bench.plan(gate={"at_least": {"right": 0.5}})
    with pytest.raises(ConfigError, match=r"gate\.at_least\.similar\.right"):
        choose_evaluators(plan, bench.catalog, RECORDS)
