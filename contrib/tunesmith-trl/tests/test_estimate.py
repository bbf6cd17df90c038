"""Estimates: the step of the toolkit's own loop over padded rows, and what TRL adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from policy_run import options, trl_options

from tunesmith.estimates import Assumptions, Estimate, EstimateRequest
from tunesmith_trl.estimate import estimate, memory_savings, micro_batch_rows, pad_options
from tunesmith_trl.options import TrlOptions
from tunesmith_trl.task import TrlTask


def first_estimate(model: Path, config: TrlOptions) -> Estimate:
    request = EstimateRequest(
        config=json.loads((model / "config.json").read_text(encoding="utf-8")),
        tokenizer=None,
        train=(),
        test=(),
        assumed=Assumptions(sequence=64, micro_batch=None, rows=100),
        device="cuda",
    )
    return next(iter(estimate(config, request)))


@pytest.mark.parametrize(
    ("budget", "rows"), [(1, 1), (59, 1), (60, 2), (200, 4), (480, 16), (10_000, 16)]
)
def test_a_micro_batch_is_a_divisor_of_the_batch_that_fits(budget: int, rows: int) -> None:
    """Rows of 18 + 12 tokens; a batch has 4 prompts with 4 completions each."""
    assert micro_batch_rows(options(micro_batch_tokens=budget), 4, 18) == rows


def test_a_batch_of_fewer_prompts_has_fewer_rows() -> None:
    policy = options(micro_batch_tokens=150)
    assert micro_batch_rows(policy, 3, 18) == 4  # of 12: 5 would fit
    assert micro_batch_rows(policy, 1, 18) == 4


def test_the_logits_of_trl_are_counted(tiny_model: Path) -> None:
    config = trl_options(generation__max_new_tokens=32, micro_batch_tokens=512, precision="fp32")
    memory = first_estimate(tiny_model, config).memory
    assert set(memory) == {"load", "rollout", "train", "evaluate"}
    vocabulary = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
    rows = micro_batch_rows(config.policy_options, 4, 32)
    assert rows == 8
    assert memory["train"].components["logits of TRL"] == rows * 32 * vocabulary * 4 * 4


def test_a_reward_model_and_vllm_are_mentioned(tiny_model: Path) -> None:
    plain = first_estimate(tiny_model, trl_options())
    config = trl_options(rewards=[{}], reward_model="runs/rlhf", vllm=True)
    other = first_estimate(tiny_model, config)
    assert other.memory["train"].components["reward model"] > 0
    assert other.memory["train"].expected > plain.memory["train"].expected
    assert [note for note in other.notes if note not in plain.notes] == [
        "the reward model is assumed to be as large as the base model",
        "vLLM is not counted: it reserves a share of the GPU (30 % by TRL's default)",
    ]


def test_packing_is_no_memory_saving(tiny_model: Path) -> None:
    unpacked = trl_options(packing=False)
    assert first_estimate(tiny_model, unpacked) == first_estimate(tiny_model, trl_options())
    changes: list[Any] = [saving.changes for saving in memory_savings(unpacked)]
    assert ("technique.micro_batch_tokens = 512",) in changes
    assert not [change for change in changes if "packing" in str(change)]


def test_no_prompt_is_shared_by_its_completions() -> None:
    """On a CPU the toolkit's own loop computes a prompt once; TRL never does."""
    grouping = TrlTask(None, vllm=False).grouping(options(), "cpu")
    assert not grouping.shares_prompt and grouping.sampled_completions == (4, 12)
    assert pad_options(options()).packing is False
