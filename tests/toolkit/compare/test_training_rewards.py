"""The rewards that a technique trains on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import UsageError
from tunesmith.options import from_table
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_torch.compare.other_model import RewardOptions, load_reward_scorer
from tunesmith_torch.compare.training_rewards import find_training_rewards


def test_rewards_are_found_in_the_options() -> None:
    terms = [{}, {"function": "a.py:f"}, {"plugin": "p.q:g"}]
    reward = {"skip": True, "from": "runs/r/reward"}
    table = {"reward": reward, "policy": {"rewards": terms, "monitor": {"gold": "a.py:gold"}}}
    found = find_training_rewards(from_table(RlhfOptions, table))
    assert found is not None
    assert found.functions == ("a.py:f", "p.q:g")
    assert (found.has_reward_model, found.model, found.gold) == (
        True,
        "runs/r/reward",
        "a.py:gold",
    )
    assert found.includes(RewardOptions()) and found.includes(RewardOptions(plugin="p.q:g"))
    assert not found.includes(RewardOptions(reward="a.py:gold"))
    assert find_training_rewards(from_table(PreferenceOptions, {})) is None


def test_a_scorer_by_each_kind_of_name(tmp_path: Path) -> None:
    path = tmp_path / "rules.py"
    path.write_text("def f(prompt, answer):\n    return len(answer)\n")
    scorer = load_reward_scorer(RewardOptions(reward=f"{path}:f"), None)
    assert scorer is not None and scorer.rewards(["q"], ["abc"]) == [3.0]
    ratio = load_reward_scorer(RewardOptions(plugin="operator:eq"), None)
    assert ratio is not None and ratio.rewards(["q", "q"], ["q", "p"]) == [1.0, 0.0]
    with pytest.raises(UsageError, match=r"table\.plugin: cannot import the module"):
        load_reward_scorer(RewardOptions(plugin="nowhere.at_all:f"), None, "table")
    with pytest.raises(UsageError, match=r"table\.reward: no reward model found"):
        load_reward_scorer(RewardOptions(reward=str(tmp_path)), None, "table")
    with pytest.raises(ValueError, match="are both set"):
        RewardOptions(reward="a.py:f", plugin="p:f")
