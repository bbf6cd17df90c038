"""Rewards of the user's own: what counts as a number, and what is said of all else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import TrainingError, UsageError
from tunesmith_torch.rlhf.reward_functions import FunctionReward

ASKED = ["What?"], ["ten"]


def written(folder: Path, body: str) -> FunctionReward:
    (folder / "mine.py").write_text(
        f"import math\n\ndef judge(prompt, answer):\n    {body}\n", encoding="utf-8"
    )
    return FunctionReward.read(f"{folder / 'mine.py'}:judge")


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("return 2", 2.0),
        ("return len(answer) == 3", 1.0),
        ("import numpy; return numpy.float32(0.5)", 0.5),
        ("import numpy; return numpy.int64(3)", 3.0),
        ("import torch; return torch.tensor(0.25)", 0.25),
        ("from fractions import Fraction; return Fraction(1, 4)", 0.25),
    ],
)
def test_every_kind_of_number_is_one(tmp_path: Path, body: str, value: float) -> None:
    assert written(tmp_path, body).rewards(*ASKED) == [value]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("None", "None"),
        ("'0.5'", "'0.5'"),
        ("math.nan", "nan"),
        ("-math.inf", "-inf"),
        ("[0.5, 0.5]", "[0.5, 0.5]"),
        ("1j", "1j"),
        ("__import__('torch').ones(2)", "tensor"),
        ("__import__('numpy').ones(2)", "array"),
    ],
)
def test_what_is_no_finite_number_stops_the_run(tmp_path: Path, value: str, said: str) -> None:
    reward = written(tmp_path, f"return {value}")
    with pytest.raises(TrainingError, match="reward judge: must give a finite number") as caught:
        reward.rewards(*ASKED)
    assert f"got {said}" in caught.value.message
    assert caught.value.exit_code == 5


def test_a_function_that_raises_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        written(tmp_path, "return 1 / len(prompt[9:])").rewards(*ASKED)
    assert caught.value.message == (
        "reward judge: raised for an answer of 3 characters, "
        "ZeroDivisionError: division by zero (mine.py:4)"
    )
    assert "ten" not in caught.value.message  # what a model says may be anything


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("def judge(prompt: str", "cannot be run, SyntaxError"),
        ("import no_such_module_at_all", "cannot be run, ModuleNotFoundError"),
        ("judge = 3", 'has no function "judge"'),
        ("def judge(prompt): return 1", "must take a prompt and an answer"),
        ("def judge(prompt, answer, mood): return 1", "must take a prompt and an answer"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=match) as caught:
        FunctionReward.read(f"{tmp_path / 'mine.py'}:judge", "technique.policy.gold")
    assert caught.value.message.startswith("technique.policy.gold: ")


def test_more_parameters_may_have_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def judge(prompt, answer, scale=2.0): return scale\n")
    assert FunctionReward.read(f"{tmp_path / 'mine.py'}:judge").rewards(*ASKED) == [2.0]


def test_a_compiled_function_need_not_say_what_it_takes(tmp_path: Path) -> None:
    """Nothing is known of its parameters, so its first call tells, before any stage is trained."""
    (tmp_path / "mine.py").write_text("judge = max\n", encoding="utf-8")
    judge = FunctionReward.read(f"{tmp_path / 'mine.py'}:judge")
    assert judge.function is max
    with pytest.raises(TrainingError, match="must give a finite number, got 'ten'"):
        judge.rewards(*ASKED)
