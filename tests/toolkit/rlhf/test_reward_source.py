"""The rewards of a policy: the terms of their sum, and which reward model shares its base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tables import build

from tunesmith.errors import TrainingError, UsageError
from tunesmith.records import Completion, Prompt
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.policy import PolicyOptions, RewardTerm
from tunesmith_torch.rlhf.reward_source import (
    RewardModelSource,
    build_reward,
    check_reward_functions,
    option_key,
)

RECORD = Completion(source="rows:1", prompt="What?", completion="a banana")


class ConstantReward:
    """In place of a reward model."""

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [10.0] * len(completions)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.py"
    path.write_text(
        "def length(prompt, answer):\n    return len(answer)\n"
        "def nothing(prompt, answer):\n    return None\n"
    )
    return path


def test_rewards_are_a_weighted_sum(rules: Path) -> None:
    terms = [
        RewardTerm(weight=0.5),
        RewardTerm(function=f"{rules}:length"),
        RewardTerm(weight=2.0, plugin="operator:countOf"),
    ]
    prompt: Any = "bb"
    model = build_reward(terms, ConstantReward())
    # countOf(prompt, completion) counts the completion in the prompt's text.
    assert model.rewards([prompt], ["b"]) == [0.5 * 10 + 1 + 2 * 2]
    without = build_reward(terms, None)
    assert without.rewards([prompt], ["b"]) == [1 + 2 * 2]


def test_functions_are_tried_with_an_existing_row(rules: Path) -> None:
    def options(reward: str, gold: str | None = None) -> PolicyOptions:
        return build(PolicyOptions, rewards=[{"function": reward}], monitor__gold=gold)

    check_reward_functions(options(f"{rules}:length", f"{rules}:length"), RECORD)
    with pytest.raises(TrainingError, match="finite number, got None"):
        check_reward_functions(options(f"{rules}:nothing"), RECORD)
    with pytest.raises(TrainingError, match="finite number, got None"):
        check_reward_functions(options(f"{rules}:length", f"{rules}:nothing"), RECORD)
    with pytest.raises(UsageError, match=r"technique\.policy\.monitor\.gold"):
        check_reward_functions(options(f"{rules}:length", f"{rules}:gone"), RECORD, "policy")
    assert option_key("", "monitor.gold") == "technique.monitor.gold"
    assert option_key("policy", "rewards") == "technique.policy.rewards"
    terms = [RewardTerm(function="nowhere.py:f")]
    for stage, key in (("", "technique.rewards"), ("policy", "technique.policy.rewards")):
        with pytest.raises(UsageError, match=rf"^{key}: nowhere.py: no such file"):
            build_reward(terms, None, stage)
        with pytest.raises(UsageError, match=rf'^{key}: must have the form "file.py:function"'):
            build_reward([RewardTerm(function="rules.py")], None, stage)


@pytest.mark.parametrize(
    ("changes", "quantization", "shared"),
    [
        ({}, None, True),
        ({"adapt": "full"}, None, False),
        ({"adapt": "qlora"}, None, False),
        ({"adapt": "qlora"}, Quantization(), True),
        ({"adapt": "qlora", "quantization__bits": 8}, Quantization(), False),
        ({}, Quantization(), False),
    ],
    ids=str,
)
def test_an_adapter_over_the_same_weights_shares_them(
    tmp_path: Path, changes: dict[str, Any], quantization: Quantization | None, shared: bool
) -> None:
    base = tmp_path / "base"
    other = tmp_path / "other"
    adapter = tmp_path / "run" / "reward" / "adapter"
    for folder in (base, other, adapter):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (adapter / "config.json").unlink()
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(base)}))
    session: Any = SimpleNamespace(options=build(PolicyOptions, **changes), folder=base)
    source = RewardModelSource(adapter, quantization)
    assert source.shares_base(session) == shared
    config.write_text(json.dumps({"base_model_name_or_path": str(other)}))
    assert not source.shares_base(session)
    assert not RewardModelSource(base, quantization).shares_base(session)  # a full model
