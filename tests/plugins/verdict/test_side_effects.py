"""Side effects of a training are measured by default, paired, and named in the headline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, catalog_of, offering
from verdict_cases import Case, right

from tunesmith.contracts import Generation
from tunesmith.events import BASE, TUNED
from tunesmith.execution.report import Report, build_report
from tunesmith_evidence.report.headline import find_headline
from tunesmith_evidence.side_effects.general_prompts import read_general_prompts
from tunesmith_plugins.evaluators.side_effects import (
    GENERAL_SKILLS,
    GeneralLoss,
    GeneralLossOptions,
    GeneralSkills,
    GeneralSkillsOptions,
)

PROMPTS = len(read_general_prompts())


@pytest.fixture
def case(tmp_path: Path) -> Case:
    case = Case(tmp_path)
    case.baseline("majority", right(0.2), 0.2)
    case.baseline("linear", right(0.6), 0.6)
    case.baseline("zero-shot", right(0.3), 0.3)
    case.model(TUNED, right(0.9))
    return case


def add_effect(case: Case, base: list[float], tuned: list[float], **changes: Any) -> None:
    for model, values in ((BASE, base), (TUNED, tuned)):
        beside = Case(case.folder)
        beside.model(f"{model}.general", values)
        fields = {"model": model, "evaluator": "general-skills", **changes}
        case.measured.append(replace(beside.measured[0], **fields))


def test_a_clear_loss_is_part_of_the_headline(case: Case) -> None:
    add_effect(case, right(0.77), right(0.47), details={"text": "40 % are a label"})
    verdict = case.judge()
    assert verdict["word"] == "FINE-TUNE"
    assert verdict["price"] == "right 0.770 -> 0.470: 40 % are a label"
    assert verdict["sentence"].endswith("outside the task: right 0.770 -> 0.470: 40 % are a label")
    assert (
        verdict["reason"] and "outside the task" not in verdict["reason"] and not verdict["notes"]
    )
    report = Report(finished=None)
    headline = find_headline(replace_verdict(report, verdict))
    assert headline.word == "FINE-TUNE, at a price" and headline.tone == "good"


def replace_verdict(report: Report, verdict: Any) -> Report:
    from tunesmith.execution.run_events import build_run_finished

    return build_report([build_run_finished(None, verdict, 1.0)])


@pytest.mark.parametrize(
    ("base", "tuned"),
    [(right(0.5), right(0.5)), (right(0.5), right(0.49)), (right(0.5), right(0.8)),
     (right(0.5, 20), right(0.4, 20)), (right(0.0), right(0.0))],
)  # fmt: skip
def test_no_price_without_a_clear_loss(case: Case, base: list[float], tuned: list[float]) -> None:
    add_effect(case, base, tuned)
    verdict = case.judge()
    assert "price" not in verdict and "outside the task" not in verdict["sentence"]
    assert verdict["side_effects_text"].startswith("none found: right ")


def test_what_cannot_be_seen_is_said(case: Case) -> None:
    add_effect(case, right(0.02), right(0.0))
    (effect,) = case.judge()["side_effects"]
    assert effect["limit"] == "the base model reaches only 0.020, too low to show a decline"
    case.measured = case.measured[:4]
    add_effect(case, right(0.5), right(0.5))
    (effect,) = case.judge()["side_effects"]
    assert effect["limit"] == "a change below 0.078 may go unnoticed"


def test_without_side_effects_the_verdict_is_as_before(case: Case) -> None:
    verdict = case.judge()
    assert verdict["side_effects"] == [] and verdict["side_effects_text"] == ""


class Answering:
    """A model with one answer to everything, or a right one to half of the prompts."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def generate(self, prompts: Any, limit: int, *, progress: Any = None) -> list[Generation]:
        return [Generation(self.answer, 1, "stop") for _ in prompts]

    def score(self, prompts: Any, answers: Any, *, progress: Any = None) -> list[Any]:
        from tunesmith.contracts import TokenScores

        return [TokenScores((-1.0,) * len(answer.split())) for answer in answers]


def test_a_collapsed_model_is_found() -> None:
    from bench import rows

    from tunesmith.records import Completion

    train = [Completion(source=str(n), **row) for n, row in enumerate(rows())]
    skills, alike = GeneralSkills(GeneralSkillsOptions()).measure(Answering("Oslo"), train)
    assert sum(skills.values) <= 2 and sum(alike.values) >= PROMPTS - 2
    assert "a label of the task" in alike.details["text"]
    _, alike = GeneralSkills(GeneralSkillsOptions()).measure(Answering("Hello there."), train)
    assert sum(alike.values) == 0 and not alike.details
    (loss,) = GeneralLoss(GeneralLossOptions()).measure(Answering(""), train)
    assert set(loss.values) == {1.0}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, catalog_of(effects=offering("evaluators", GENERAL_SKILLS)))


def measured_models(report: Report, evaluator: str) -> list[str]:
    return [e.model for e in report.measured.values() if e.evaluator == evaluator]


def test_a_run_measures_base_and_tuned_model(bench: Bench) -> None:
    """Also if the run file names an evaluator; no baseline is measured, and nothing twice."""
    report = bench.run(evaluators=[{"use": "right"}])
    assert measured_models(report, "general-skills") == [BASE, BASE, TUNED, TUNED]
    assert "zero-shot" in measured_models(report, "right")
    assert BASE not in measured_models(report, "right")
    assert report.verdict["evaluator"] == "right"
    before = [event["event"] for event in bench.events()].count("measured")
    bench.run(evaluators=[{"use": "right"}], resume=True)
    assert [event["event"] for event in bench.events()].count("measured") == before


def test_side_effects_can_be_switched_off_or_named(bench: Bench) -> None:
    report = bench.run(run={"side_effects": False})
    assert measured_models(report, "general-skills") == []
    report = bench.run(
        folder="named",
        evaluators=[{"use": "right"}, {"use": "general-skills", "max_new_tokens": 4}],
    )
    assert measured_models(report, "general-skills") == [BASE, BASE, TUNED, TUNED]


def test_a_gate_on_side_effects_is_possible(bench: Bench) -> None:
    from tunesmith.errors import GateError

    with pytest.raises(GateError, match="general-skills"):
        bench.run(gate={"at_least": {"general-skills": 0.99}})
