"""Estimates for techniques that train a policy on preferences or rewards.

Torch is not imported. A policy is adapted like a supervised model, so its step is estimated in the
same way. This module adds what these techniques hold and compute in addition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tunesmith.estimates import Estimate, EstimateRequest, PhaseMemory
from tunesmith.records import Record, UnpairedPreference
from tunesmith_torch.memory_estimate import analytic, constants, per_rank
from tunesmith_torch.memory_estimate.parallel_choice import build_estimate_setting
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.techniques import (
    analytic_estimate,
    can_count_tokens,
    count_tokens,
    estimate_supervised,
    import_tracing,
    traced_estimate,
)
from tunesmith_torch.memory_estimate.workload import (
    AUTO_BATCH_SIZE,
    DEFAULT_ASSUMPTIONS,
    Grouping,
)
from tunesmith_torch.options.generation_limits import (
    MAX_ROWS,
    kv_bytes_per_token,
    max_cached_tokens,
)
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.options.preference import PairOptions, PreferenceLossOptions
from tunesmith_torch.runtime.processes import map_in_processes

__all__ = [
    "Stage",
    "build_pair_grouping",
    "build_policy_grouping",
    "estimate_preferences",
    "estimate_stages",
]


def build_pair_grouping(
    options: PairOptions, device: str, *, scores_last_token: bool = False
) -> Grouping:
    """Return how pairs and labeled answers are grouped: all completions of a row are computed.

    On a CPU, the prompt of a pair is computed only once (prefix/prefix_check.py).
    """
    return Grouping(
        both_completions=True,
        shares_prompt=options.packing and options.share_prompts and device == "cpu",
        scores_last_token=scores_last_token,
    )


def build_policy_grouping(options: PolicyOptions, device: str) -> Grouping:
    """Return how a policy's rows are grouped: several completions are sampled for each prompt."""
    generation = options.generation
    return Grouping(
        sampled_completions=(generation.num_generations, generation.max_new_tokens),
        shares_prompt=options.packing and device == "cpu",
    )


def estimate_preferences(
    options: PairOptions, loss: PreferenceLossOptions, request: EstimateRequest
) -> Iterator[Estimate]:
    """Estimate training on pairs or labeled answers, with a reference model if the loss has one.

    The reference's log-probabilities are computed before training and cached, so the reference
    needs no extra memory. Its forward passes count as compute, and so do the passes for KTO's KL
    estimate.
    """
    grouping = build_pair_grouping(options, request.device)
    for estimate in estimate_supervised(options, request, grouping):
        epochs = _epochs(options, request, estimate.steps)
        passes = TRAINING_PASSES + _further_passes(loss, epochs, request.train)
        yield replace(estimate, flops=estimate.flops * passes / TRAINING_PASSES)


TRAINING_PASSES = 3.0
"""Work of a forward and a backward pass together, in forward passes."""


def _further_passes(loss: PreferenceLossOptions, epochs: float, records: Sequence[Record]) -> float:
    """Return the extra forward passes per epoch, where 1 is a pass over all rows.

    The reference scores all rows once per run. For KTO, each row also has a mismatched completion,
    which the reference scores once per run and the policy once per epoch.
    """
    if not loss.needs_reference:
        return 0.0
    if loss.type != "kto":
        return 1 / epochs
    labeled = sum(isinstance(record, UnpairedPreference) for record in records)
    rows = len(records) or 1
    mismatched = rows / (2 * rows - labeled)  # a pair has two completions, a labeled answer one
    return (1 + mismatched) / epochs + mismatched


def _epochs(options: PairOptions, request: EstimateRequest, steps: int) -> float:
    """Return the number of passes over the data in ``steps``."""
    assumed = request.assumed.rows if request.assumed else None
    rows = len(request.train) or assumed or DEFAULT_ASSUMPTIONS.rows or 1
    return min(options.epochs, steps * (options.batch_size or AUTO_BATCH_SIZE) / rows)


# --------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Stage:
    """One stage of a run that trains several stages in turn."""

    name: str
    request: EstimateRequest
    """The request with this stage's training records."""
    setting: EstimateSetting
    resident_models: Mapping[str, int] = field(default_factory=dict)
    """Bytes of other models in memory during the stage, by name."""
    policy: PolicyOptions | None = None
    """The policy's options; None if the stage samples no completions."""

    @classmethod
    def of_policy(
        cls,
        name: str,
        options: PolicyOptions,
        request: EstimateRequest,
        *,
        reward_model_bytes: int = 0,
    ) -> Stage:
        """Return the stage of a policy, including the other models in memory.

        With adapters, the reference shares the policy's base model. If all weights are trained, the
        reference is a frozen copy.
        """
        grouping = build_policy_grouping(options, request.device)
        setting = build_estimate_setting(options, request, grouping)
        models = {"reward model": reward_model_bytes} if reward_model_bytes else {}
        if options.adapt == "full" and options.needs_reference:
            models["reference"] = setting.shape.parameters * setting.compute_bytes
        return cls(name, request, setting, models, options)


def estimate_stages(stages: Sequence[Stage]) -> Iterator[Estimate]:
    """Yield three estimates of a run: by arithmetic, with exact row lengths, and traced.

    Each estimate has a phase for every stage. A policy adds the phase ``rollout``, which samples
    completions: it holds all models, the key-value cache and the idle optimizer state. Without a
    tokenizer or rows, there is no estimate with exact lengths.
    """
    exact = all(can_count_tokens(stage.request) for stage in stages)
    yield replace(_estimate_by_arithmetic(stages), has_guessed_lengths=exact)
    if exact:
        stages = [replace(s, setting=count_tokens(s.setting, s.request)) for s in stages]
        yield _estimate_by_arithmetic(stages)
    import_tracing()  # once here, instead of once in each process
    # The last stage takes longest to trace, so it starts first.
    traced = [*reversed(map_in_processes(_trace, [*reversed(stages)]))]
    estimates = [_with_earlier_stages(s.setting, e) for s, e in zip(stages, traced, strict=True)]
    yield _combine_stages(stages, estimates)


def _estimate_by_arithmetic(stages: Sequence[Stage]) -> Estimate:
    return _combine_stages(stages, [analytic_estimate(s.setting, s.request) for s in stages])


def _trace(stage: Stage) -> Estimate:
    return traced_estimate(stage.setting, stage.request)


def _with_earlier_stages(setting: EstimateSetting, estimate: Estimate) -> Estimate:
    """Return a stage's estimate plus the kernels and gaps that earlier stages leave on a CPU."""
    from tunesmith_torch.memory_estimate import traced  # imports torch

    # Estimates with rows of different lengths already contain these gaps; analytic ones do not.
    if setting.workload.has_ragged_rows or estimate.method != "traced" or setting.device != "cpu":
        return estimate
    train = traced.add_varied_shape_memory(estimate.memory["train"])
    return replace(estimate, memory={**estimate.memory, "train": train})


def _combine_stages(stages: Sequence[Stage], estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimate of a run with these stages, which evaluates the last stage's model."""
    memory = {"load": estimates[0].memory["load"]}
    flops = 0.0
    for stage, estimate in zip(stages, estimates, strict=True):
        if stage.policy is not None:
            memory["rollout"] = _rollout_memory(stage, stage.policy)
            weights = stage.setting.shape.active_layer_weights
            flops += 2.0 * weights * estimate.tokens * ROLLOUT_FORWARD_PASSES
        for phase, name in (("train", stage.name), ("gather", f"{stage.name}, gather")):
            if phase in estimate.memory:
                part = estimate.memory[phase]
                memory[name] = _with_resident_models(part, stage.resident_models)
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
        compute_bytes=max(estimate.compute_bytes for estimate in estimates),
        notes=tuple(dict.fromkeys(note for estimate in estimates for note in estimate.notes)),
    )


def _with_earlier_stage_memory(
    memory: Mapping[str, PhaseMemory], device: str
) -> Mapping[str, PhaseMemory]:
    """Return the memory of each phase; on a CPU, add memory that earlier stages leave behind."""
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
"""Forward passes per completion besides training.

One each for sampling, the reward, and the log-probabilities under the policy and the reference.
"""
SAMPLING_BYTES_PER_LOGIT = 16
"""Bytes per logit during sampling: log-probabilities, probabilities, and fp64 sums."""


def _rollout_memory(stage: Stage, policy: PolicyOptions) -> PhaseMemory:
    """Return the memory needed to sample completions.

    It consists of the memory that training holds between steps, the key-value cache and the logits.
    """
    setting = stage.setting
    shape, w, workload = setting.shape, setting.compute_bytes, setting.workload
    rows = policy.batch_size * policy.generation.num_generations
    prompt = max(row.prompt for row in workload.micro_batch)
    cache_sizes = shape.key_value_heads, shape.head_dim, shape.layers, w
    cached_tokens = min(
        max_cached_tokens(*cache_sizes), rows * (prompt + policy.generation.max_new_tokens)
    )
    cache = kv_bytes_per_token(*cache_sizes) * cached_tokens
    merged = analytic.merged_weights_memory(setting, rows * policy.generation.max_new_tokens)
    static = {**analytic.stored_memory(setting), **merged}
    if setting.is_sharded:
        static["whole weights"] = per_rank.ShardSizes(setting).whole
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
    """Return a phase's memory plus the memory of other models in the same process."""
    low, high = analytic.STATIC_FACTORS
    extra = sum(models.values())
    return PhaseMemory(
        low=round(memory.low + extra * low),
        expected=memory.expected + extra,
        high=round(memory.high + extra * high),
        components={**memory.components, **models},
    )
