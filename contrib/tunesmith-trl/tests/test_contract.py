"""The techniques pass the conformance kit of tunesmith."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from policy_run import save_model_with_endings

from tunesmith.testing import parametrize_checks
from tunesmith_trl import GRPO, RLOO

REWARD = """
from pathlib import Path

from transformers import AutoTokenizer
from tunesmith.testing.examples import COMPLETIONS

TOKENIZER = AutoTokenizer.from_pretrained(Path(__file__).parent / "tiny")


def tokens(text):
    return set(TOKENIZER(text)["input_ids"])


RIGHT = set().union(*(tokens(example.completion) for example in COMPLETIONS))


def right_tokens(prompt, completion):
    return len(tokens(completion) & RIGHT)
"""
"""Rewards different tokens of the right answers, so that all of these become more likely."""


@cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="tunesmith-trl-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def tiny_model() -> Path:
    return save_model_with_endings(folder() / "tiny")


def reward() -> str:
    path = folder() / "reward.py"
    path.write_text(REWARD, encoding="utf-8")
    return f"{path}:right_tokens"


SAMPLE: dict[str, Any] = {
    "rewards": [{"function": reward()}],
    "epochs": 8.0,
    "batch_size": 8,
    "learning_rate": 2e-2,
    "generation": {"num_generations": 8, "max_new_tokens": 16, "temperature": 2.0},
    "loss": {"mask_truncated_completions": False, "kl_coef": 0.01},
    "monitor": {"max_kl": 0.0, "every": 100},
}


@parametrize_checks(GRPO, model=tiny_model, samples={"trl-grpo": SAMPLE})
def test_grpo(check: Any) -> None:
    check()


@parametrize_checks(RLOO, model=tiny_model, samples={"trl-rloo": SAMPLE})
def test_rloo(check: Any) -> None:
    check()


@pytest.mark.parametrize("name", ["trl-grpo", "trl-rloo"])
def test_the_command_line_finds_and_checks_them(name: str) -> None:
    command = [sys.executable, "-m", "tunesmith", "plugins"]
    shown = subprocess.run([*command, "show", name], capture_output=True, text=True, check=False)
    assert shown.returncode == 0 and "tunesmith-trl" in shown.stdout, shown.stderr
    done = subprocess.run([*command, "check", name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout + done.stderr
