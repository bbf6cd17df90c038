"""Reward functions of the user: accepted numbers, and the errors for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import TrainingError, UsageError
from tunesmith_torch.rlhf.reward_functions import FunctionReward

PROMPT_AND_COMPLETION = ["What?"], ["ten"]


def write_reward(folder: Path, body: str) -> FunctionReward:
    (folder / "mine.py").write_text(
        f"import math\n\ndef score(prompt, answer):\n    {body}\n", encoding="utf-8"
    )
    return FunctionReward.from_file(f"{folder / 'mine.py'}:score")


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
def test_every_kind_of_number_is_accepted(tmp_path: Path, body: str, value: float) -> None:
    assert write_reward(tmp_path, body).rewards(*PROMPT_AND_COMPLETION) == [value]


@pytest.mark.parametrize(
    ("value", "shown"),
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
def test_anything_but_a_finite_number_stops_the_run(tmp_path: Path, value: str, shown: str) -> None:
    reward = write_reward(tmp_path, f"return {value}")
    with pytest.raises(TrainingError, match="reward score: must return a finite number") as caught:
        reward.rewards(*PROMPT_AND_COMPLETION)
    assert f"got {shown}" in caught.value.message
    assert caught.value.exit_code == 5


def test_an_exception_is_reported_with_function_and_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        write_reward(tmp_path, "return 1 / len(prompt[9:])").rewards(*PROMPT_AND_COMPLETION)
    assert caught.value.message == (
        "reward score: raised an exception for an answer of 3 characters: "
        "ZeroDivisionError: division by zero (mine.py:4)"
    )
    assert "ten" not in caught.value.message  # completions may contain anything


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("def score(prompt: str", "cannot be run: SyntaxError"),
        ("import no_such_module_at_all", "cannot be run: ModuleNotFoundError"),
        ("score = 3", 'has no function "score"'),
        ("def score(prompt): return 1", "must take two arguments"),
        ("def score(prompt, answer, mood): return 1", "must take two arguments"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=match) as caught:
        FunctionReward.from_file(f"{tmp_path / 'mine.py'}:score", "technique.policy.gold")
    assert caught.value.message.startswith("technique.policy.gold: ")


def test_further_parameters_with_defaults_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(prompt, answer, scale=2.0): return scale\n")
    assert FunctionReward.from_file(f"{tmp_path / 'mine.py'}:score").rewards(
        *PROMPT_AND_COMPLETION
    ) == [2.0]


def test_a_compiled_function_without_signature_is_accepted(tmp_path: Path) -> None:
    """Its parameters are unknown; its first call, before any stage is trained, shows an error."""
    (tmp_path / "mine.py").write_text("score = max\n", encoding="utf-8")
    reward = FunctionReward.from_file(f"{tmp_path / 'mine.py'}:score")
    assert reward.function is max
    with pytest.raises(TrainingError, match="must return a finite number, got 'ten'"):
        reward.rewards(*PROMPT_AND_COMPLETION)
