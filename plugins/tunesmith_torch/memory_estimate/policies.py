"""Estimates of techniques that train a policy: on preferences, and against a reward model.

Imports no torch. A policy is adapted like a supervised model, so its step is estimated like one;
what these techniques hold in addition is added here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tunesmith.estimates import Estimate, EstimateRequest, PhaseMemory
from tunesmith.records import Record, UnpairedPreference
from tunesmith_torch.memory_estimate import analytic, constants, per_rank
from tunesmith_torch.memory_estimate.parallel_choice import build_setting
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.techniques import (
    analytic_estimate,
    estimate_supervised,
    import_tracing,
    refined_estimate,
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

__all__ = ["Stage", "estimate_preferences", "estimate_stages", "pair_grouping", "policy_grouping"]


def pair_grouping(
    options: PairOptions, device: str, *, scores_last_token: bool = False
) -> Grouping:
    """Return the grouping of pairs, of which both completions are computed, and labeled answers.

    On a CPU a prompt is computed once for both of them (prefix/prefix_check.py).
    """
    return Grouping(
        both_completions=True,
        shares_prompt=options.packing and options.share_prompts and device == "cpu",
        scores_last_token=scores_last_token,
    )


def policy_grouping(options: PolicyOptions, device: str) -> Grouping:
    """Return the grouping of a policy: the model samples the completions of each prompt."""
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
    takes no memory besides the policy; its forward passes count as work. So do those of KTO's KL.
    """
    grouping = pair_grouping(options, request.device)
    for estimate in estimate_supervised(options, request, grouping):
        epochs = _epochs(options, request, estimate.steps)
        passes = TRAINING_PASSES + _further_passes(loss, epochs, request.train)
        yield replace(estimate, flops=estimate.flops * passes / TRAINING_PASSES)


TRAINING_PASSES = 3.0
"""Work of forward and backward together, in forward passes."""


def _further_passes(loss: PreferenceLossOptions, epochs: float, records: Sequence[Record]) -> float:
    """Return the forward passes of an epoch besides training, in units of a pass over the rows.

    The reference scores all rows once. KTO scores one mismatched completion for each row: by the
    reference once, and by the policy in every batch.
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
    """Return the passes over the data that so many steps make."""
    assumed = request.assumed.rows if request.assumed else None
    rows = len(request.train) or assumed or DEFAULT_ASSUMPTIONS.rows or 1
    return min(options.epochs, steps * (options.batch_size or AUTO_BATCH_SIZE) / rows)


# --------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Stage:
    """A stage that is trained, one of several in a run."""

    name: str
    request: EstimateRequest
    """The request with the records that the stage trains on."""
    setting: EstimateSetting
    resident_models: Mapping[str, int] = field(default_factory=dict)
    """Bytes of other models in memory during the stage."""
    policy: PolicyOptions | None = None
    """Options of a policy, which samples completions; None: the stage samples none."""

    @classmethod
    def of_policy(
        cls,
        name: str,
        options: PolicyOptions,
        request: EstimateRequest,
        *,
        reward_model_bytes: int = 0,
    ) -> Stage:
        """Return the stage of a policy, with the models in memory besides it.

        Adapters share their base with the reference. A policy of which all weights are trained
        needs a frozen copy.
        """
        grouping = policy_grouping(options, request.device)
        setting = build_setting(options, request, grouping)
        models = {"reward model": reward_model_bytes} if reward_model_bytes else {}
        if options.adapt == "full" and options.needs_reference:
            models["reference"] = setting.shape.parameters * setting.compute_bytes
        return cls(name, request, setting, models, options)


def estimate_stages(stages: Sequence[Stage]) -> Iterator[Estimate]:
    """Yield two estimates of all stages in turn: one by arithmetic, one with traced steps.

    Each has a phase for each stage, and for a policy ``rollout``, in which it samples completions:
    all models, the cache of the completions, and the idle optimizer state.
    """
    analytic_estimates = [analytic_estimate(stage.setting, stage.request) for stage in stages]
    yield _combine_stages(stages, analytic_estimates)
    import_tracing()  # once, and not in each of the processes
    # The last stage takes longest, so it is the first to begin.
    refined = [*reversed(map_in_processes(_refine, [*reversed(stages)]))]
    exact_stages = [
        replace(stage, setting=setting) for stage, (setting, _) in zip(stages, refined, strict=True)
    ]
    traced_estimates = [_with_earlier_stages(*each) for each in refined]
    yield _combine_stages(exact_stages, traced_estimates)


def _refine(stage: Stage) -> tuple[EstimateSetting, Estimate]:
    return refined_estimate(stage.setting, stage.request)


def _with_earlier_stages(setting: EstimateSetting, estimate: Estimate) -> Estimate:
    """Return a stage's estimate with the kernels and gaps that earlier stages left on a CPU."""
    from tunesmith_torch.memory_estimate import traced  # imports torch

    # An estimate of ragged rows contains them already; only traced ones count them at all.
    if setting.workload.has_ragged_rows or estimate.method != "traced" or setting.device != "cpu":
        return estimate
    train = traced.with_varied_shapes(estimate.memory["train"])
    return replace(estimate, memory={**estimate.memory, "train": train})


def _combine_stages(stages: Sequence[Stage], estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimate of a run of these stages; the last one's model is evaluated."""
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


def _rollout_memory(stage: Stage, policy: PolicyOptions) -> PhaseMemory:
    """Return the memory of sampling completions.

    It is what training holds between steps, the key-value cache, and the logits.
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
        static["whole weights"] = per_rank.Shards(setting).whole
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
