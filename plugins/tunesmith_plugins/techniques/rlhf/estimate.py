"""Estimate memory and compute of the three stages. Only the traced estimate imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.estimates import Estimate, EstimateRequest, MemorySaving
from tunesmith.records import Preference
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_torch.memory_estimate.parallel_choice import build_estimate_setting
from tunesmith_torch.memory_estimate.policies import Stage, build_pair_grouping, estimate_stages
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.techniques import stage_memory_savings

STAGES = ("supervised", "reward", "policy")


def estimate(options: RlhfOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """Yield two estimates of the stages to train, first an analytic one, then a traced one."""
    yield from estimate_stages(list(_trained_stages(options, request)))


def memory_savings(options: RlhfOptions) -> Sequence[MemorySaving[Any]]:
    """Return changes to the stages' options that save memory."""
    return stage_memory_savings(options, STAGES)


def _trained_stages(options: RlhfOptions, request: EstimateRequest) -> Iterator[Stage]:
    """Yield the stages that are not skipped.

    Without demonstrations, the supervised stage trains on the chosen completions of pairs.
    """
    supervised, reward, policy = options.supervised, options.reward, options.policy
    pairs = [record for record in request.train if isinstance(record, Preference)]
    demonstrations = [record for record in request.train if not isinstance(record, Preference)]
    if not supervised.skip:
        own = replace(request, train=demonstrations or pairs)
        yield Stage("supervised", own, build_estimate_setting(supervised, own))
    if not reward.skip:
        own = replace(request, train=pairs)
        grouping = build_pair_grouping(reward, request.device, scores_last_token=True)
        yield Stage("reward", own, build_estimate_setting(reward, own, grouping))
    if not policy.skip:
        size = _reward_model_bytes(options, request)
        yield Stage.of_policy("policy", policy, request, reward_model_bytes=size)


def _reward_model_bytes(options: RlhfOptions, request: EstimateRequest) -> int:
    """Return the additional bytes that the reward model occupies during the policy stage.

    A reward adapter shares the policy's base model if both use the same adapter method and
    quantization.
    """
    policy, reward = options.policy, options.reward
    if not policy.needs_reward_model or (reward.skip and reward.initial_model is None):
        return 0
    setting = EstimateSetting.from_request(reward, request)
    adapter = setting.trainable_parameters * 4 if reward.adapt != "full" else 0
    same_kind = policy.adapt == reward.adapt and policy.quantization == reward.quantization
    shares_base = same_kind and reward.adapt != "full"
    return adapter + (0 if shares_base else setting.base_bytes)
