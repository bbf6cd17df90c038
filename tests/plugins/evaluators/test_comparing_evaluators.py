"""Evaluators that compare two models: win rate, divergence and length."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.contracts import ComparingEvaluator, RunSoFar
from tunesmith.errors import UsageError
from tunesmith.records import Completion
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.kl.offer import KL
from tunesmith_plugins.evaluators.length.offer import LENGTH
from tunesmith_plugins.evaluators.win_rate.offer import WIN_RATE, WinRateOptions

ROWS = [Completion(source=f"r:{n}", prompt=f"q{n}", completion="x") for n in range(3)]


def model(*answers: str, **logprobs: Sequence[float]) -> FakeTextModel:
    return FakeTextModel(
        answers={f"q{n}": answer for n, answer in enumerate(answers)}, logprobs=logprobs
    )


def so_far(base: FakeTextModel, **stages: FakeTextModel) -> RunSoFar:
    """A run whose base and stages are tables."""
    paths = {Path(name): opened for name, opened in stages.items()}
    return RunSoFar(
        model=Path("base"),
        device="cpu",
        artifacts={name: Path(name) for name in stages},
        open=lambda artifact: base if artifact is None else paths[artifact],
    )


def compared(offer: Any, ours: FakeTextModel, run: RunSoFar, **options: Any) -> list[Any]:
    evaluator = offer.build(offer.config(**options))
    assert isinstance(evaluator, ComparingEvaluator)
    return list(evaluator.compare(ours, ROWS, run))


@pytest.fixture
def longer(tmp_path: Path) -> str:
    path = tmp_path / "judge.py"
    path.write_text("def longer(prompt, answer):\n    return float(len(answer))\n")
    return f"{path}:longer"


def test_win_rate_by_hand(longer: str) -> None:
    run = so_far(model("a", "bb", "ccc"))
    (measured,) = compared(WIN_RATE, model("aa", "bb", "c"), run, reward=longer)
    assert measured.values == (1.0, 0.5, 0.0)
    assert measured.outputs == ("aa", "bb", "c")


def test_a_model_ties_with_itself(longer: str) -> None:
    same = model("a", "b", "")
    (measured,) = compared(WIN_RATE, same, so_far(same), reward=longer)
    assert measured.values == (0.5, 0.5, 0.5)


def test_rounding_decides_nothing_between_equal_answers(tmp_path: Path) -> None:
    """A reward model's numbers depend a little on what else it is asked at once."""
    path = tmp_path / "judge.py"
    path.write_text(
        "asked = []\n"
        "def judge(prompt, answer):\n"
        "    asked.append(answer)\n"
        "    return 1 - 1e-7 * len(asked)\n"
    )
    same = model("a", "b", "")
    (measured,) = compared(WIN_RATE, same, so_far(same), reward=f"{path}:judge")
    assert measured.values == (0.5, 0.5, 0.5)


def test_length_change_by_hand() -> None:
    (measured,) = compared(LENGTH, model("a b c", "a", ""), so_far(model("a", "a", "a")))
    assert measured.values == (2.0, 0.0, -1.0)


def test_divergence_by_hand() -> None:
    ours = model("a", "b", "c", a=[-1.0, -1.0], b=[-0.5, -0.5], c=[-2.0, -0.0])
    theirs = model(a=[-2.0, -1.5], b=[-0.5, -0.5], c=[-1.0, -0.5])
    (measured,) = compared(KL, ours, so_far(theirs), samples=3)
    assert measured.values == pytest.approx((1.5, 0.0, -0.5))


def test_the_end_that_was_not_said_is_not_counted() -> None:
    ours = model("a b", "a b", "a b", **{"a b": [-1.0, -1.0, -100.0]})
    (measured,) = compared(KL, ours, so_far(model(**{"a b": [-2.0, -2.0, -1.0]})), tokens=2)
    assert measured.values == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize("offer", [KL, LENGTH], ids=["kl", "length"])
def test_a_stage_is_found_once_it_is_there(offer: Any) -> None:
    ours, base, other = model("a b", "a b", "a b"), model("", "", ""), model("a", "a", "a")
    assert compared(offer, ours, so_far(base), stage="supervised") == []
    run = so_far(base, supervised=other)
    (with_stage,) = compared(offer, ours, run, stage="supervised")
    (with_base,) = compared(offer, ours, run)
    assert offer is KL or with_stage.values != with_base.values
    ended = replace(run, artifacts={**run.artifacts, "": Path("policy")})
    with pytest.raises(UsageError, match='no stage "supervise"'):
        compared(offer, ours, ended, stage="supervise")


def test_the_judge_may_not_be_there_yet() -> None:
    ours = model("a", "b", "c")
    assert compared(WIN_RATE, ours, so_far(ours)) == []
    with pytest.raises(UsageError, match="reward"):
        compared(WIN_RATE, ours, so_far(ours, **{"": ours}))


def test_outside_of_a_run_a_model_must_be_named() -> None:
    with pytest.raises(UsageError, match="no run"):
        LENGTH.build(LENGTH.config()).measure(model("a"), ROWS)


def test_in_a_run_of_three_stages(tmp_path: Path) -> None:
    """Through the real path: every model of the run that can be compared is, the others are not."""
    import tunesmith
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    save_tiny_model(tmp_path / "model")
    rows = [
        {"prompt": f"{n}?", "chosen": f"please {n} please", "rejected": f"no {n}"}
        for n in range(48)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text(RUN)
    report = tunesmith.run(tmp_path / "run.toml", out=tmp_path / "out")
    found = {(e.model, e.metric): e for e in report.measured.values()}
    models = {name for name, _ in found}
    assert {"base", "supervised", "tuned"} <= models
    assert ("base", "win_rate") not in found, "there was no judge then"
    assert found["supervised", "win_rate"].value == 0.5
    assert found["supervised", "kl"].value == pytest.approx(0, abs=1e-3)
    assert found["supervised", "length_change"].value == 0
    assert 0 <= found["tuned", "win_rate"].value <= 1
    assert math.isfinite(found["tuned", "kl"].value)
    assert found["tuned", "kl"].value > 0.01
    assert found["tuned", "win_rate"].n == 16


RUN = """
[model]
base = "model"
[data]
use = "jsonl"
train = "rows.jsonl"
holdout = 16
[technique]
use = "rlhf"
[technique.supervised]
max_steps = 2
learning_rate = 1e-2
[technique.reward]
epochs = 4
batch_size = 8
learning_rate = 1e-2
accept_weak = true
[technique.policy]
max_steps = 2
batch_size = 4
num_generations = 4
max_new_tokens = 8
learning_rate = 2e-2
mask_truncated_completions = false
monitor_rows = 4
[baselines]
shots = 0
[[evaluators]]
use = "win-rate"
stage = "supervised"
tokens = 8
[[evaluators]]
use = "kl"
stage = "supervised"
tokens = 8
[[evaluators]]
use = "length"
stage = "supervised"
tokens = 8
[[evaluators]]
use = "loss"
"""


def test_offers_say_how_many_models_they_hold() -> None:
    judged = [WIN_RATE.models(WinRateOptions(reward=judge)) for judge in (None, "runs/1", "a.py:f")]
    assert judged == [3, 3, 2]
    assert (KL.models(KL.config()), LENGTH.models(LENGTH.config())) == (2, 2)
