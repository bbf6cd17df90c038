"""Evaluators that compare two models: win rate, divergence and length."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.contracts import ComparingEvaluator, RunContext
from tunesmith.errors import UsageError
from tunesmith.records import Completion
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.kl import KL
from tunesmith_plugins.evaluators.length import LENGTH
from tunesmith_plugins.evaluators.win_rate import WIN_RATE, WinRateOptions

ROWS = [Completion(source=f"r:{n}", prompt=f"q{n}", completion="x") for n in range(3)]


def model(*answers: str, **logprobs: Sequence[float]) -> FakeTextModel:
    return FakeTextModel(
        answers={f"q{n}": answer for n, answer in enumerate(answers)}, logprobs=logprobs
    )


def run_context(base: FakeTextModel, **stages: FakeTextModel) -> RunContext:
    """Return the context of a run whose base and stages are fake models."""
    paths = {Path(name): opened for name, opened in stages.items()}
    return RunContext(
        model=Path("base"),
        device="cpu",
        artifacts={name: Path(name) for name in stages},
        open=lambda artifact: base if artifact is None else paths[artifact],
    )


def compare(offer: Any, ours: FakeTextModel, run: RunContext, **options: Any) -> list[Any]:
    evaluator = offer.build(offer.config(**options))
    assert isinstance(evaluator, ComparingEvaluator)
    return list(evaluator.compare(ours, ROWS, run))


@pytest.fixture
def length_reward(tmp_path: Path) -> str:
    """Return the name of a reward function that returns the length of the answer."""
    path = tmp_path / "rewards.py"
    path.write_text("def length_reward(prompt, answer):\n    return float(len(answer))\n")
    return f"{path}:length_reward"


def test_win_rate_by_hand(length_reward: str) -> None:
    run = run_context(model("a", "bb", "ccc"))
    measurement, *_ = compare(WIN_RATE, model("aa", "bb", "c"), run, reward=length_reward)
    assert measurement.values == (1.0, 0.5, 0.0)
    assert measurement.outputs == ("aa", "bb", "c")


def test_win_rate_of_a_model_against_itself_is_one_half(length_reward: str) -> None:
    same = model("a", "b", "")
    measurement, *_ = compare(WIN_RATE, same, run_context(same), reward=length_reward)
    assert measurement.values == (0.5, 0.5, 0.5)


def test_equal_answers_tie_in_spite_of_rounding(tmp_path: Path) -> None:
    """The rewards of a reward model depend a little on the rest of the batch."""
    path = tmp_path / "rewards.py"
    path.write_text(
        "calls = []\n"
        "def reward(prompt, answer):\n"
        "    calls.append(answer)\n"
        "    return 1 - 1e-7 * len(calls)\n"
    )
    same = model("a", "b", "")
    measurement, *_ = compare(WIN_RATE, same, run_context(same), reward=f"{path}:reward")
    assert measurement.values == (0.5, 0.5, 0.5)


def test_a_win_rate_comes_with_the_length_of_the_answers(length_reward: str) -> None:
    """The judge rewards length, so longer answers win: at equal length, nothing is left."""
    names = [f"q{n}" for n in range(40)]
    rows = [Completion(source=name, prompt=name, completion="x") for name in names]
    ours = FakeTextModel(answers={q: "a" * (3 if n % 4 else 1) for n, q in enumerate(names)})
    theirs = FakeTextModel(answers=dict.fromkeys(names, "aa"))
    evaluator = WIN_RATE.build(WinRateOptions(reward=length_reward))
    rate, equal, tokens = evaluator.compare(ours, rows, run_context(theirs))  # type: ignore[attr-defined]
    assert sum(rate.values) == 30
    assert "at equal length, it would be" in rate.details["finding"]
    assert equal.metric == "equal-length-win-rate" and equal.interval[0] < 0.5 < equal.interval[1]
    assert (tokens.metric, tokens.values) == ("answer-tokens", (2.0,) * 40)


def test_length_change_by_hand() -> None:
    (measurement,) = compare(LENGTH, model("a b c", "a", ""), run_context(model("a", "a", "a")))
    assert measurement.values == (2.0, 0.0, -1.0)


def test_kl_by_hand() -> None:
    ours = model("a", "b", "c", a=[-1.0, -1.0], b=[-0.5, -0.5], c=[-2.0, -0.0])
    theirs = model(a=[-2.0, -1.5], b=[-0.5, -0.5], c=[-1.0, -0.5])
    (measurement,) = compare(KL, ours, run_context(theirs), num_samples=3)
    assert measurement.values == pytest.approx((1.5, 0.0, -0.5))


def test_kl_leaves_out_the_end_token_that_was_not_generated() -> None:
    ours = model("a b", "a b", "a b", **{"a b": [-1.0, -1.0, -100.0]})
    (measurement,) = compare(
        KL, ours, run_context(model(**{"a b": [-2.0, -2.0, -1.0]})), max_new_tokens=2
    )
    assert measurement.values == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize("offer", [KL, LENGTH], ids=["kl", "length"])
def test_stage_is_compared_with_once_it_is_trained(offer: Any) -> None:
    ours, base, other = model("a b", "a b", "a b"), model("", "", ""), model("a", "a", "a")
    assert compare(offer, ours, run_context(base), stage="supervised") == []
    run = run_context(base, supervised=other)
    (with_stage,) = compare(offer, ours, run, stage="supervised")
    (with_base,) = compare(offer, ours, run)
    assert offer is KL or with_stage.values != with_base.values
    ended = replace(run, artifacts={**run.artifacts, "": Path("policy")})
    with pytest.raises(UsageError, match='no stage "supervise"'):
        compare(offer, ours, ended, stage="supervise")


def test_no_win_rate_before_the_reward_model_is_trained() -> None:
    ours = model("a", "b", "c")
    assert compare(WIN_RATE, ours, run_context(ours)) == []
    with pytest.raises(UsageError, match="reward"):
        compare(WIN_RATE, ours, run_context(ours, **{"": ours}))


def test_outside_of_a_run_the_other_model_must_be_named() -> None:
    with pytest.raises(UsageError, match="outside a run"):
        LENGTH.build(LENGTH.config()).measure(model("a"), ROWS)


@pytest.mark.processes
def test_comparing_evaluators_in_a_run_of_three_stages(tmp_path: Path) -> None:
    """Compare, in a real run, every model for which the other model is trained already."""
    import tunesmith
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    save_tiny_model(tmp_path / "model")
    rows = [
        {"prompt": f"{n}?", "chosen": f"please {n} please", "rejected": f"no {n}"}
        for n in range(48)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text(RUN)
    report = tunesmith.run(tmp_path / "run.toml", out=tmp_path / "out").report
    found = {(e.model, e.metric): e for e in report.measured.values()}
    models = {name for name, _ in found}
    assert {"zero-shot", "supervised", "tuned"} <= models
    assert ("zero-shot", "win-rate") not in found, "there was no reward model then"
    assert found["supervised", "win-rate"].value == 0.5
    assert found["supervised", "kl"].value == pytest.approx(0, abs=1e-3)
    assert found["supervised", "length-change"].value == 0
    assert 0 <= found["tuned", "win-rate"].value <= 1
    assert math.isfinite(found["tuned", "kl"].value)
    assert found["tuned", "kl"].value > 0.01
    assert found["tuned", "win-rate"].n == 16


RUN = """
[model]
base = "model"
[data]
use = "jsonl"
train = "rows.jsonl"
test_size = 16
[technique]
use = "rlhf"
[technique.supervised]
max_steps = 2
learning_rate = 1e-2
[technique.reward]
epochs = 4
batch_size = 8
learning_rate = 1e-2
gate.accept_weak = true
[technique.policy]
max_steps = 2
batch_size = 4
generation.num_generations = 4
generation.max_new_tokens = 8
learning_rate = 2e-2
loss.mask_truncated_completions = false
monitor.rows = 4
[baselines]
use = ["zero-shot"]
[[evaluators]]
use = "win-rate"
stage = "supervised"
max_new_tokens = 8
[[evaluators]]
use = "kl"
stage = "supervised"
max_new_tokens = 8
[[evaluators]]
use = "length"
stage = "supervised"
max_new_tokens = 8
[[evaluators]]
use = "loss"
"""


def test_offers_report_the_number_of_models_in_memory() -> None:
    rewards = (None, "runs/1", "a.py:f")
    counts = [WIN_RATE.model_count(WinRateOptions(reward=reward)) for reward in rewards]
    assert counts == [3, 3, 2]
    assert (KL.model_count(KL.config()), LENGTH.model_count(LENGTH.config())) == (2, 2)
