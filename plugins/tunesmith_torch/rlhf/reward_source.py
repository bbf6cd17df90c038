"""Load the rewards of a policy: a weighted sum of functions and a reward model.

A reward model that is an adapter on the policy's base model shares that base in memory::

    base + initial adapter (frozen) + policy adapter (trained)     the policy
    base + initial adapter (frozen)                                its reference
    base + reward adapter (frozen), and a reward head              the reward model

If the reward model has another base, or if all weights of the policy are trained, the reward model
is loaded separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tunesmith.records import Prompt, Record, last_exchange
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapter_stack import active_adapters, add_frozen_adapter
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.initial_model import find_adapter_base
from tunesmith_torch.models.loading import context_length
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.policy import PolicyOptions, RewardTerm
from tunesmith_torch.prefix.completion_groups import GroupLayout
from tunesmith_torch.prefix.prefix_check import can_share_prefix
from tunesmith_torch.rlhf.reward_functions import FunctionReward, WeightedRewardSum
from tunesmith_torch.rlhf.reward_model import ModelWithRewardHead, RewardModel
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.training.trainer import TrainingSession

__all__ = ["RewardModelSource", "check_reward_functions"]

REWARD_ADAPTER = "judge"
"""Name of the reward model's adapter in the policy's model."""


@dataclass(frozen=True)
class RewardModelSource:
    """The folder of a reward model, and how its base model is quantized."""

    path: Path
    quantization: Quantization | None

    def shares_base(self, session: TrainingSession) -> bool:
        """Return True if the reward model is an adapter on the policy's base model.

        Both must quantize the base in the same way. The base must stay unchanged: a policy that
        trains all weights, or whose base has a merged adapter, cannot share it.
        """
        adaptation = session.options.adaptation
        quantization = Quantization.from_options(adaptation.quantization)
        is_adapter = artifacts.detect_artifact_format(self.path) == "adapter"
        if not is_adapter or adaptation.adapter is None or self.quantization != quantization:
            return False
        base = find_adapter_base(self.path, session.folder)
        return base.resolve() == session.folder.resolve()

    def load(self, session: TrainingSession, *, share_base: bool) -> Reward:
        """Load the reward model, as an adapter in the policy's model or as a separate model."""
        return _load_shared(session, self.path) if share_base else _load_separate(session, self)


@dataclass(frozen=True)
class SharedBaseRewardModel:
    """A reward model stored as an adapter in the policy's model, active only for rewards."""

    model: RewardModel
    policy: Any

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Return each completion's reward, then activate the policy's own adapters again."""
        with active_adapters(self.policy, [REWARD_ADAPTER]):
            return self.model.rewards(prompts, completions)


def remove_reward_adapter(policy: AdaptedModel) -> None:
    """Delete the reward model's adapter from the policy's model, if it has one."""
    if REWARD_ADAPTER in getattr(policy.model, "peft_config", {}):
        cast(Any, policy.model).delete_adapter(REWARD_ADAPTER)


def build_reward(
    terms: Sequence[RewardTerm], reward_model: Reward | None, stage: str = ""
) -> Reward:
    """Return the weighted sum of the rewards in a stage's options.

    Without ``reward_model``, terms for the reward model are omitted.

    Raises:
        UsageError: a function is missing or does not take a prompt and a completion.
    """
    key = option_key(stage, "rewards")
    weighted: list[tuple[float, Reward]] = []
    for term in terms:
        if term.function is not None:
            weighted.append((term.weight, FunctionReward.from_file(term.function, key)))
        elif term.plugin is not None:
            weighted.append((term.weight, FunctionReward.from_package(term.plugin, key)))
        elif reward_model is not None:
            weighted.append((term.weight, reward_model))
    return WeightedRewardSum(tuple(weighted))


def check_reward_functions(options: PolicyOptions, record: Record, stage: str = "") -> None:
    """Call the user's functions once on a training row, before training starts.

    Raises:
        UsageError: a function is missing or does not take a prompt and a completion.
        TrainingError: a function raised an exception or did not return a finite number.
    """
    prompt, answer = last_exchange(record)
    functions: list[Reward] = [build_reward(options.rewards, None, stage)]
    if options.monitor.gold is not None:
        key = option_key(stage, "monitor.gold")
        functions.append(FunctionReward.from_file(options.monitor.gold, key))
    for function in functions:
        function.rewards([prompt], [answer.text])


def option_key(stage: str, key: str) -> str:
    """Return the full run-file key of a stage's option, for messages."""
    return ".".join(["technique", *([stage] if stage else []), key])


def _load_shared(session: TrainingSession, path: Path) -> Reward:
    policy, packing = session.adapted, session.options.packing
    model: Any = policy.model
    add_frozen_adapter(model, path, REWARD_ADAPTER)
    net = ModelWithRewardHead(model, policy.base.config.get_text_config().hidden_size)
    net.load_head(path)
    net.head.to(policy.base.model.device).requires_grad_(False)
    with active_adapters(model, [REWARD_ADAPTER]):
        share_prompts = packing and can_share_prefix(model, context_length(policy.base))
    reward_model = RewardModel(net, session.template, GroupLayout(packing, share_prompts))
    return SharedBaseRewardModel(reward_model, model)


def _load_separate(session: TrainingSession, source: RewardModelSource) -> Reward:
    is_adapter = artifacts.detect_artifact_format(source.path) == "adapter"
    return RewardModel.load(
        find_adapter_base(source.path, session.job.model) if is_adapter else source.path,
        source.path,
        session.adapted.base.model.device,
        session.adapted.precision,
        packing=session.options.packing,
        quantization=source.quantization,
    )
