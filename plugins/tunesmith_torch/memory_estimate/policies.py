"""Estimates of techniques that train a policy: on preferences, and against a reward model.

Imports no torch. A policy is adapted like a supervised model, so its step is estimated like one;
what these techniques hold in addition is added here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tunesmith.contracts import Estimate, EstimateRequest, PhaseMemory
from tunesmith.records import Preference
from tunesmith_torch.memory_estimate import analytic, constants
from tunesmith_torch.memory_estimate.setting import EstimateSetting, Method
from tunesmith_torch.memory_estimate.techniques import (
    analytic_estimate,
    estimate_supervised,
    refined_estimate,
)
from tunesmith_torch.memory_estimate.workload import SINGLE_COMPLETION, Grouping
from tunesmith_torch.options.generation_limits import (
    MAX_ROWS,
    kv_bytes_per_token,
    max_cached_tokens,
)
from tunesmith_torch.options.policy import PolicyLoopOptions
from tunesmith_torch.options.preference import PairOptions, PolicyOptions, RewardOptions
from tunesmith_torch.options.rlhf import PolicyStage, RlhfOptions
from tunesmith_torch.options.training import LoraOptions, QloraOptions, TrainingOptions

_OPTIONS_BY_METHOD: dict[Method, type[TrainingOptions]] = {
    "full": TrainingOptions,
    "lora": LoraOptions,
    "qlora": QloraOptions,
}


def supervised_options(options: TrainingOptions) -> tuple[Method, TrainingOptions]:
    """Return the method, and the options of the supervised technique that adapts weights by it."""
    if isinstance(options, PolicyOptions):
        method: Method = options.adapt
        options_type = _OPTIONS_BY_METHOD[method]
        common = {name: getattr(options, name) for name in options_type.model_fields}
        # They were validated as options of the policy.
        return method, options_type.model_construct(**common)
    if isinstance(options, QloraOptions):
        return "qlora", options
    return ("lora" if isinstance(options, LoraOptions) else "full"), options


def grouping_for(options: TrainingOptions, request: EstimateRequest) -> Grouping:
    """Return the grouping of the options: rows, pairs of completions, or sampled completions.

    On a CPU a prompt is computed once for all of its completions (prefix/prefix_check.py).
    """
    shares_prompt = options.packing and request.device == "cpu"
    match options:
        case PairOptions():
            return Grouping(
                both_completions=True,
                shares_prompt=shares_prompt and options.share_prompts,
                scores_last_token=isinstance(options, RewardOptions),
            )
        case PolicyLoopOptions():
            sampled = (options.num_generations, options.max_new_tokens)
            return Grouping(sampled_completions=sampled, shares_prompt=shares_prompt)
        case _:
            return SINGLE_COMPLETION


def estimate_preference(options: PairOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """Estimate training on preference pairs.

    The reference's log-probabilities are computed before training and cached, so the reference
    takes no memory besides the policy; its forward passes count as work.
    """
    method, supervised = supervised_options(options)
    grouping = grouping_for(options, request)
    for estimate in estimate_supervised(method, supervised, request, grouping):
        # Forward and backward count as three passes; the reference's forward is the fourth.
        yield replace(estimate, flops=estimate.flops * (4 / 3))


# --------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class _Stage:
    """A stage of RLHF that is trained."""

    name: str
    request: EstimateRequest
    """The request with the records that the stage trains on."""
    setting: EstimateSetting
    resident_models: Mapping[str, int]
    """Bytes of other models in memory during the stage."""


def estimate_rlhf(options: RlhfOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """Yield two estimates of all stages in turn: one by arithmetic, one with traced steps.

    Each has a phase for each stage that is trained, and ``rollout``, in which the policy samples
    completions: all models, the cache of the completions, and the idle optimizer state.
    """
    stages = list(_trained_stages(options, request))
    analytic_estimates = [analytic_estimate(stage.setting, stage.request) for stage in stages]
    yield _combine_stages(options, stages, analytic_estimates)
    refined = [refined_estimate(stage.setting, stage.request) for stage in stages]
    exact_stages = [
        replace(stage, setting=setting) for stage, (setting, _) in zip(stages, refined, strict=True)
    ]
    traced_estimates = [_with_earlier_stages(*each) for each in refined]
    yield _combine_stages(options, exact_stages, traced_estimates)


def _trained_stages(options: RlhfOptions, request: EstimateRequest) -> Iterator[_Stage]:
    """Yield the stages that are not skipped.

    Without demonstrations the supervised stage trains on the chosen completions of the pairs.
    """
    supervised, reward, policy = options.supervised, options.reward, options.policy
    pairs = [record for record in request.train if isinstance(record, Preference)]
    demonstrations = [record for record in request.train if not isinstance(record, Preference)]
    if not supervised.skip:
        own = replace(request, train=demonstrations or pairs)
        yield _Stage("supervised", own, _stage_setting(supervised, own), {})
    if not reward.skip:
        own = replace(request, train=pairs)
        yield _Stage("reward", own, _stage_setting(reward, own), {})
    if not policy.skip:
        setting = _stage_setting(policy, request)
        yield _Stage("policy", request, setting, _resident_models(options, request, setting))


def _with_earlier_stages(setting: EstimateSetting, estimate: Estimate) -> Estimate:
    """Return a stage's estimate with the kernels and gaps that earlier stages left on a CPU."""
    from tunesmith_torch.memory_estimate import traced  # imports torch

    # An estimate of ragged rows contains them already; only traced ones count them at all.
    if setting.workload.has_ragged_rows or estimate.method != "traced" or setting.device != "cpu":
        return estimate
    train = traced.with_varied_shapes(estimate.memory["train"])
    return replace(estimate, memory={**estimate.memory, "train": train})


def _stage_setting(options: PolicyOptions, request: EstimateRequest) -> EstimateSetting:
    return EstimateSetting.from_request(
        *supervised_options(options), request, grouping_for(options, request)
    )


def _resident_models(
    options: RlhfOptions, request: EstimateRequest, setting: EstimateSetting
) -> Mapping[str, int]:
    """Return the bytes of the models that are in memory besides the policy.

    Adapters share their base with the reference, and with a reward model that is an adapter over a
    base of the same kind. A policy of which all weights are trained needs a frozen copy.
    """
    policy, reward = options.policy, options.reward
    models = {}
    if policy.needs_reward_model and not (reward.skip and reward.initial_model is None):
        reward_setting = EstimateSetting.from_request(*supervised_options(reward), request)
        same_kind = policy.adapt == reward.adapt != "full" and policy.bits == reward.bits
        adapter = reward_setting.trainable_parameters * 4 if reward.adapt != "full" else 0
        shares_base = same_kind and policy.backend == "native"
        models["reward model"] = adapter + (0 if shares_base else reward_setting.base_bytes)
    if policy.adapt == "full" and policy.needs_reference:
        models["reference"] = setting.shape.parameters * setting.compute_bytes
    return models


def _combine_stages(
    options: RlhfOptions, stages: Sequence[_Stage], estimates: Sequence[Estimate]
) -> Estimate:
    """Return the estimate of a run of these stages; the last one's model is evaluated."""
    memory = {"load": estimates[0].memory["load"]}
    flops = 0.0
    for stage, estimate in zip(stages, estimates, strict=True):
        if stage.name == "policy":
            memory["rollout"] = _rollout_memory(stage, options.policy)
            weights = stage.setting.shape.active_layer_weights
            flops += 2.0 * weights * estimate.tokens * ROLLOUT_FORWARD_PASSES
        memory[stage.name] = _with_resident_models(estimate.memory["train"], stage.resident_models)
        flops += estimate.flops
    memory = dict(_with_earlier_stage_memory(memory, stages[-1].setting.device))
    return Estimate(
        method="traced" if all(e.method == "traced" for e in estimates) else "analytic",
        memory={**memory, "evaluate": estimates[-1].memory["evaluate"]},
        flops=flops,
        steps=sum(estimate.steps for estimate in estimates),
        tokens=sum(estimate.tokens for estimate in estimates),
        longest_row=max(estimate.longest_row for estimate in estimates),
        micro_batch_tokens=max(estimate.micro_batch_tokens for estimate in estimates),
        notes=tuple(dict.fromkeys(note for estimate in estimates for note in estimate.notes)),
    )


def _with_earlier_stage_memory(
    memory: Mapping[str, PhaseMemory], device: str
) -> Mapping[str, PhaseMemory]:
    """Return the phases' memory, on a CPU with what earlier stages leave in the same process."""
    if device != "cpu":
        return memory
    extra = constants.EARLIER_STAGE_BYTES
    return {
        phase: part
        if phase == "load"
        else PhaseMemory(
            low=part.low,
            expected=part.expected + extra,
            high=part.high + extra,
            components={**part.components, "framework": part.components["framework"] + extra},
        )
        for phase, part in memory.items()
    }


ROLLOUT_FORWARD_PASSES = 4
"""Forward passes of a completion besides its training: it is sampled, rewarded, and its
log-probabilities are computed by policy and reference."""
SAMPLING_BYTES_PER_LOGIT = 16
"""Bytes for each logit during sampling: log-probabilities, probabilities, sums in fp64."""


def _rollout_memory(stage: _Stage, policy: PolicyStage) -> PhaseMemory:
    """Return the memory of sampling completions.

    It is what training holds between steps, the key-value cache, and the logits.
    """
    setting = stage.setting
    shape, w, workload = setting.shape, setting.compute_bytes, setting.workload
    rows = policy.batch_size * policy.num_generations
    prompt = max(row.prompt for row in workload.micro_batch)
    cache_sizes = shape.key_value_heads, shape.head_dim, shape.layers, w
    cached_tokens = min(max_cached_tokens(*cache_sizes), rows * (prompt + policy.max_new_tokens))
    cache = kv_bytes_per_token(*cache_sizes) * cached_tokens
    merged = analytic.merged_weights_memory(setting, rows * policy.max_new_tokens)
    static = {**analytic.training_memory(setting).static, **merged}
    static.pop("gradients", None)  # they are released after each step
    parts = analytic.MemoryParts(
        {**static, **stage.resident_models},
        {
            "cache": cache * 3 // 2,  # copied when it grows
            "logits": min(rows, MAX_ROWS) * shape.vocab_size * (w + SAMPLING_BYTES_PER_LOGIT),
        },
        constants.framework_memory(setting.device),
    )
    return parts.to_memory(workload.length_factors)


def _with_resident_models(memory: PhaseMemory, models: Mapping[str, int]) -> PhaseMemory:
    """Return the memory of a phase plus that of other models in the same process."""
    low, high = analytic.STATIC_FACTORS
    extra = sum(models.values())
    return PhaseMemory(
        low=round(memory.low + extra * low),
        expected=memory.expected + extra,
        high=round(memory.high + extra * high),
        components={**memory.components, **models},
    )
