"""``tunesmith advise``, with a plugin that needs no tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from tunesmith.events import BaselineChosen, Measured
from tunesmith.testing import sample_event
from tunesmith_evidence.baselines import MeasuredBaseline
from tunesmith_evidence.pilots import RowValue
from tunesmith_plugins.commands.advise.advice import (
    Costs,
    ExpectedDifference,
    Pilot,
    compare_with_baseline,
    decide_advice,
    extrapolate_pilots,
    list_arguments,
    list_missing,
)
from tunesmith_plugins.commands.advise.command import find_margin
from tunesmith_plugins.commands.advise.learning_curve import Extrapolation
from tunesmith_plugins.commands.advise.offer import ADVISE, AdviseOptions
from tunesmith_plugins.verdict.offer import VERDICT, VerdictOptions

Tunesmith = Callable[..., Result]


def test_advise_measures_baselines_and_pilots(
    tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,zero-shot,advise")
    rows = "".join(f"say w{n}\tSAY W{n}\n" for n in range(104))
    (tmp_path / "data.tsv").write_text(rows)
    with (tmp_path / "run.toml").open("a") as file:
        file.write("[split]\nvalidation_size = 0\n")
        file.write("[advise]\nvolume = 10\nknowledge_changes = 'weekly'\n")
    done = tunesmith("advise", "run.toml", "--out", "advice", "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == "tunesmith.advice/1"
    assert [pilot["rows"] for pilot in found["pilots"]] == [10, 20, 40]
    assert "zero-shot" in [baseline["baseline"] for baseline in found["baselines"]]
    assert "did not reduce" in found["expected"]["reason"]
    assert found["word"] == "FINE-TUNE", found
    assert "weekly" in found["arguments"][0]["reason"]
    # The rows are "say w7"; the strongest baseline is the bare question.
    assert found["prompt_tokens"] == {"baseline": 2.0, "tuned": 2.0}
    shown = tunesmith("advise", "run.toml", "--out", "again", "-q")
    assert "2,000 with the baseline, 2,000 tuned" in shown.stdout
    assert "FINE-TUNE" in shown.stdout and "cannot extrapolate" in shown.stdout


def test_the_margin_is_that_of_the_verdict() -> None:
    def plan(*tables: Any) -> Any:
        return SimpleNamespace(tables=tables)

    verdict = SimpleNamespace(offer=VERDICT, config=VerdictOptions(margin=0.05))
    advice = SimpleNamespace(offer=ADVISE, config=AdviseOptions())
    assert find_margin(plan(advice, verdict)) == 0.05
    assert find_margin(plan(advice)) == 0.02


def probe_of(rows: int, right: Any) -> Pilot:
    """Return a pilot that got these rows right."""
    values = {row: RowValue(float(is_right)) for row, is_right in enumerate(right)}
    score = float(np.mean(right))
    return Pilot(rows, sample_event(Measured, metric="m", value=score, n=len(right)), values, 1.0)


def pilot(rows: int, right: int, of: int = 96) -> Pilot:
    """Return a pilot after this many rows, with this many answers right."""
    values = {row: RowValue(float(row < right)) for row in range(of)}
    measured = sample_event(Measured, metric="exact-match", value=right / of, n=of)
    return Pilot(rows, measured, values, 1.0)


def test_nothing_is_extrapolated_from_probes_that_have_not_begun_to_learn() -> None:
    """The last of three is on its way up: a power law through all of them would be far too low."""
    majority = sample_event(Measured, model="majority", value=12 / 96)
    late = [pilot(10, 0), pilot(20, 12), pilot(40, 20)]
    found = extrapolate_pilots(late, 100, majority)
    assert found.reason == "after 10 and 20 training rows, the model is no better than majority"
    assert extrapolate_pilots(late, 100).reason == (
        "after 10 training rows, the model is no better than a model that gets nothing right"
    )
    early = [pilot(10, 20), pilot(20, 40), pilot(40, 60)]
    assert not extrapolate_pilots(early, 100, majority).reason


BASELINE = MeasuredBaseline(BaselineChosen(baseline="linear", solution="classifier", cost=20), None)
NO_FORECAST = Extrapolation(100, reason="fewer than 3 pilots")


def test_rows_weigh_as_in_the_scores() -> None:
    """Of a loss per token, the long answers decide."""
    weights = [1.0] * 6 + [99.0] * 6

    def losses(short: float, long: float) -> dict[int, RowValue]:
        return {n: RowValue(short if w == 1 else long, w) for n, w in enumerate(weights)}

    measured = sample_event(Measured, metric="loss", unit="nats/token", higher_is_better=False)
    pilots = [Pilot(n, measured, losses(1.0, 40 / n), 1.0) for n in (10, 20, 40)]
    baseline = losses(9.0, 0.5)
    found = compare_with_baseline(BASELINE, baseline, NO_FORECAST, pilots[-1])
    assert found is not None and found.value == pytest.approx(0.01 * 8 - 0.99 * 0.5)
    expected = extrapolate_pilots(pilots, 80)
    assert expected.error == pytest.approx(0.5, rel=0.02)
    forecast = compare_with_baseline(BASELINE, baseline, expected, pilots[-1])
    assert forecast is not None
    assert forecast.value == pytest.approx(0.01 * 9 + 0.99 * 0.5 - expected.error)
    assert forecast.low < forecast.value < forecast.high
    assert compare_with_baseline(BASELINE, {0: RowValue(1.0)}, expected, pilots[-1]) is None


@pytest.mark.parametrize(("rows", "word"), [(10, "NOT ENOUGH EVIDENCE"), (200, "SMALL CLASSIFIER")])
def test_a_baseline_that_is_always_right_is_enough_on_enough_rows(rows: int, word: str) -> None:
    shares = {10: 0.5, 20: 0.7, 40: 0.9}
    pilots = [pilot(n, round(rows * share), rows) for n, share in shares.items()]
    expected = extrapolate_pilots(pilots, 100)
    assert not expected.reason
    found = compare_with_baseline(
        BASELINE, {row: RowValue(1.0) for row in range(rows)}, expected, pilots[-1]
    )
    assert found is not None
    assert decide_advice([found], 0.02, True)[0] == word


def test_equal_values_between_the_bounds_are_not_enough_on_few_rows() -> None:
    """Of a share of right fields, say: what was the same on ten rows need not stay so."""
    measured = sample_event(Measured, metric="m", value=0.75, lowest=0.0, highest=1.0)
    values = {row: RowValue(0.75) for row in range(10)}
    expected = Extrapolation(100, 0.25, (0.25,) * 2000)
    found = compare_with_baseline(BASELINE, values, expected, Pilot(40, measured, values, 1.0))
    assert found is not None and found.value == 0
    assert decide_advice([found], 0.02, True)[0] == "NOT ENOUGH EVIDENCE"


@pytest.mark.parametrize(("rows", "baseline"), [(10, 0.9), (60, 0.97)])
def test_few_baselines_are_called_enough_that_are_not(rows: int, baseline: float) -> None:
    """The tuned model will be better by the margin: in at most 5 % of cases it seems not to be."""
    draws, wrong, cases = np.random.default_rng(0), 0, 200
    final = 1 - baseline - 0.02
    for _ in range(cases):
        hardness = draws.random(rows)
        pilots = [probe_of(n, hardness >= final * (100 / n) ** 0.5) for n in (10, 20, 40)]
        expected = extrapolate_pilots(pilots, 100)
        values = {n: RowValue(float(draws.random() < baseline)) for n in range(rows)}
        found = compare_with_baseline(BASELINE, values, expected, pilots[-1])
        assert found is not None
        wrong += decide_advice([found], 0.02, not expected.reason)[0] == "SMALL CLASSIFIER"
    assert wrong <= 0.05 * cases


def difference(name: str, cost: int, value: float, low: float, high: float) -> ExpectedDifference:
    solution: Any = "prompt" if cost >= 100 else "classifier" if cost else "constant"
    chosen = BaselineChosen(baseline=name, solution=solution, cost=cost)
    return ExpectedDifference(MeasuredBaseline(chosen, None), value, low, high)


def test_words() -> None:
    cheap = difference("linear", 20, -0.01, -0.02, 0.01)
    prompt = difference("zero-shot", 100, 0.2, 0.1, 0.3)
    assert decide_advice([prompt, cheap], 0.02, True)[0] == "SMALL CLASSIFIER"
    assert decide_advice([prompt], 0.02, True)[0] == "FINE-TUNE"
    assert decide_advice([difference("zero-shot", 100, 0.0, -0.1, 0.01)], 0.02, True)[0] == "PROMPT"
    assert decide_advice([cheap], 0.02, False)[0] == "NOT ENOUGH EVIDENCE"
    assert decide_advice([difference("linear", 20, 0.1, -0.1, 0.3)], 0.02, True)[0] == (
        "NOT ENOUGH EVIDENCE"
    )
    assert decide_advice([], 0.02, True)[0] == "NOT ENOUGH EVIDENCE"


def test_what_was_not_measured_may_be_as_good() -> None:
    prompt = difference("zero-shot", 100, 0.2, 0.1, 0.3)
    word, sentence = decide_advice([prompt], 0.02, True, ["linear: it needs scikit-learn"])
    assert word == "NOT ENOUGH EVIDENCE" and "not measured: linear: it needs" in sentence


@pytest.mark.parametrize("extrapolated", [True, False])
def test_one_answer_to_everything_must_be_beaten_too(extrapolated: bool) -> None:
    prompt = difference("zero-shot", 100, 0.2, 0.1, 0.3)
    constant = difference("majority", 0, -0.3, -0.4, -0.2)
    word, sentence = decide_advice([prompt, constant], 0.02, extrapolated)
    assert word == "NOT ENOUGH EVIDENCE" and "majority" in sentence
    beaten = difference("majority", 0, 0.3, 0.2, 0.4)
    assert decide_advice([prompt, beaten], 0.02, extrapolated)[0] == "FINE-TUNE"


def test_what_is_no_better_than_one_answer_to_everything_is_not_enough() -> None:
    """Nor is that answer itself."""
    linear = difference("linear", 20, 0.0, -0.01, 0.01)
    for value, word in ((0.0, "NOT ENOUGH EVIDENCE"), (0.1, "SMALL CLASSIFIER")):
        constant = difference("majority", 0, value, value - 0.01, value + 0.01)
        assert decide_advice([linear, constant], 0.02, True)[0] == word
        assert decide_advice([constant], 0.02, True)[0] == "NOT ENOUGH EVIDENCE"


def test_missing_baselines_are_named_with_their_reasons() -> None:
    def baseline(name: str, solution: Any, **fields: Any) -> BaselineChosen:
        return BaselineChosen(baseline=name, solution=solution, cost=1, **fields)

    excluded = {"skipped": "[baselines] use does not name it", "excluded": True}
    baselines = [
        baseline("linear", "classifier"),
        baseline("nearest", "classifier", **excluded),
        baseline("retrieved-shots", "retrieval", **excluded),
        baseline("zero-shot", "prompt", skipped="no room"),
        baseline("weighed", "prompt"),
    ]
    assert list_missing(baselines, {"linear"}) == [
        "retrieved-shots: [baselines] use does not name it",
        "zero-shot: no room",
        "weighed: not measured on the same test rows",
    ]
    assert "zero-shot: no room" in decide_advice([], 0.02, True, ["zero-shot: no room"])[1]


def test_a_cheap_one_that_is_much_worse_than_the_best_is_not_enough() -> None:
    cheap = difference("nearest", 10, -0.1, -0.2, 0.0)
    best = difference("linear", 20, -0.3, -0.4, -0.2)
    assert decide_advice([cheap, best], 0.02, True)[1].startswith("linear is enough")
    near = difference("nearest", 10, -0.29, -0.4, -0.2)
    assert decide_advice([near, best], 0.02, True)[1].startswith("nearest is enough")


def test_arguments() -> None:
    costs = Costs(2.0, 1.0, 3600.0, 3.6)
    assert costs.break_even == 3600 and costs.per_thousand(2.0) == pytest.approx(2.0)

    def sides(costs: Costs = costs, **options: Any) -> list[str]:
        return [side for side, _ in list_arguments(AdviseOptions(**options), costs)]

    assert sides() == []
    assert sides(volume=5000) == ["for tuning"] and sides(volume=10) == ["against tuning"]
    assert sides(latency_limit=1.5) == ["for tuning"] and sides(latency_limit=3) == []
    assert sides(variety="wide", knowledge_changes="daily") == ["against tuning"] * 2
    assert sides(Costs(1.0, 1.0, 9.0, None), volume=10**9) == ["against tuning"]
