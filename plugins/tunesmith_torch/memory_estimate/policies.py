"""Estimates for techniques that train a policy: on preferences, and against a reward model.

No torch here. A policy is adapted like a supervised model, so its step is estimated like one; what
these techniques hold beside it is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tunesmith.contracts import Estimate, EstimateRequest, Memory
from tunesmith.records import Preference
from tunesmith_torch.memory_estimate import analytic, constants
from tunesmith_torch.memory_estimate.setting import Method, Setting
from tunesmith_torch.memory_estimate.techniques import answers, closer, rough
from tunesmith_torch.memory_estimate.workload import ALONE, Grouping
from tunesmith_torch.options.generation_limits import MAX_ROWS, cached_tokens, slot_bytes
from tunesmith_torch.options.policy import PolicyLoopOptions
from tunesmith_torch.options.preference import PairOptions, PolicyOptions, RewardOptions
from tunesmith_torch.options.rlhf import PolicyStage, RlhfOptions
from tunesmith_torch.options.training import FitOptions, LoraOptions, QloraOptions

_KINDS: dict[Method, type[FitOptions]] = {
    "full": FitOptions,
    "lora": LoraOptions,
    "qlora": QloraOptions,
}


def plain(options: FitOptions) -> tuple[Method, FitOptions]:
    """How weights move, and the options of a supervised technique that moves them so."""
    if isinstance(options, PolicyOptions):
        method: Method = options.adapt
        kind = _KINDS[method]
        common = {name: getattr(options, name) for name in kind.model_fields}
        return method, kind.model_construct(**common)
    if isinstance(options, QloraOptions):
        return "qlora", options
    return ("lora" if isinstance(options, LoraOptions) else "full"), options


def grouping(options: FitOptions, request: EstimateRequest) -> Grouping:
    """What options compute together: rows, pairs of answers, or a policy's own answers.

    On a CPU a prompt is computed once for all answers (sharing.can_share).
    """
    shared = options.packing and request.device == "cpu"
    match options:
        case PairOptions():
            judged = isinstance(options, RewardOptions)
            return Grouping(both=True, shared=shared and options.share_prompts, ends=judged)
        case PolicyLoopOptions():
            return Grouping(drawn=(options.num_generations, options.max_new_tokens), shared=shared)
        case _:
            return ALONE


def preference(options: PairOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """What training on preferences would take.

    What the reference thinks is asked before training and remembered, so that it takes no memory
    beside the policy; its passes are counted as work.
    """
    method, own = plain(options)
    for found in answers(method, own, request, grouping(options, request)):
        yield replace(found, flops=found.flops * (4 / 3))


# --------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class _Stage:
    """A stage that is trained: on what, and beside which other models."""

    name: str
    request: EstimateRequest
    setting: Setting
    waiting: Mapping[str, int]


def rlhf(options: RlhfOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """What the stages would take, one after the other: by arithmetic, then with traced steps.

    A phase for each stage that is trained, and ``rollout``: the policy answers. All weights are
    there then, keys and values of the answers, and the optimizer that waits.
    """
    stages = list(_stages(options, request))
    yield _together(options, stages, [rough(stage.setting, stage.request) for stage in stages])
    found = [closer(stage.setting, stage.request) for stage in stages]
    exact = [replace(s, setting=setting) for s, (setting, _) in zip(stages, found, strict=True)]
    yield _together(options, exact, [_after_others(*each) for each in found])


def _stages(options: RlhfOptions, request: EstimateRequest) -> Iterator[_Stage]:
    """Those that are not skipped. A preference's chosen answer is a demonstration too."""
    supervised, reward, policy = options.supervised, options.reward, options.policy
    compared = [record for record in request.train if isinstance(record, Preference)]
    shown = [record for record in request.train if not isinstance(record, Preference)]
    if not supervised.skip:
        own = replace(request, train=shown or compared)
        yield _Stage("supervised", own, _setting(supervised, own), {})
    if not reward.skip:
        own = replace(request, train=compared)
        yield _Stage("reward", own, _setting(reward, own), {})
    if not policy.skip:
        setting = _setting(policy, request)
        yield _Stage("policy", request, setting, _waiting(options, request, setting))


def _after_others(setting: Setting, estimate: Estimate) -> Estimate:
    """A stage's estimate where other stages, with products of other shapes, came before it."""
    from tunesmith_torch.memory_estimate import traced  # imports torch

    counted = setting.load.ragged or estimate.method != "traced" or setting.device != "cpu"
    if counted:
        return estimate
    train = traced.with_other_shapes(estimate.memory["train"])
    return replace(estimate, memory={**estimate.memory, "train": train})


def _setting(options: PolicyOptions, request: EstimateRequest) -> Setting:
    return Setting.of(*plain(options), request, grouping(options, request))


def _waiting(options: RlhfOptions, request: EstimateRequest, setting: Setting) -> Mapping[str, int]:
    """Bytes of the models beside the policy.

    Adapters share their base with the reference, and with a reward model that is an adapter over a
    base of the same kind; a policy whose weights all move has a frozen copy beside it.
    """
    policy, reward = options.policy, options.reward
    waiting = {}
    if policy.needs_model and not (reward.skip and reward.start is None):
        judge = Setting.of(*plain(reward), request)
        alike = policy.adapt == reward.adapt != "full" and policy.bits == reward.bits
        adapter = judge.trainable * 4 if reward.adapt != "full" else 0
        one_base = alike and policy.backend == "native"
        waiting["reward model"] = adapter + (0 if one_base else judge.base_bytes)
    if policy.adapt == "full" and policy.needs_reference:
        waiting["reference"] = setting.shape.parameters * setting.width
    return waiting


def _together(
    options: RlhfOptions, stages: Sequence[_Stage], found: Sequence[Estimate]
) -> Estimate:
    """The run of all stages from those of each."""
    last, estimated = stages[-1].setting, found[-1]
    memory = {"load": found[0].memory["load"]}
    flops = 0.0
    for stage, estimate in zip(stages, found, strict=True):
        if stage.name == "policy":
            memory["rollout"] = _rollout(stage, options.policy)
            flops += 2.0 * stage.setting.shape.active_weights * estimate.tokens * FORWARDS
        memory[stage.name] = _beside(estimate.memory["train"], stage.waiting)
        flops += estimate.flops
    return Estimate(
        method="traced" if all(e.method == "traced" for e in found) else "analytic",
        memory={**_one_process(memory, last.device), "evaluate": estimated.memory["evaluate"]},
        flops=flops,
        steps=sum(estimate.steps for estimate in found),
        tokens=sum(estimate.tokens for estimate in found),
        longest=max(estimate.longest for estimate in found),
        micro_batch_tokens=max(estimate.micro_batch_tokens for estimate in found),
        notes=tuple(dict.fromkeys(note for estimate in found for note in estimate.notes)),
    )


def _one_process(memory: Mapping[str, Memory], device: str) -> Mapping[str, Memory]:
    """The phases' memory where one process goes through them: on a CPU stages leave something."""
    if device != "cpu":
        return memory
    more = constants.EARLIER_STAGES
    return {
        phase: found
        if phase == "load"
        else Memory(
            low=found.low,
            expected=found.expected + more,
            high=found.high + more,
            components={**found.components, "framework": found.components["framework"] + more},
        )
        for phase, found in memory.items()
    }


FORWARDS = 4
"""Passes of an answer beside its training: it is drawn, judged, and scored by both policies."""
DRAWN_BYTES = 16
"""Bytes for each logit that a draw takes: log-probabilities, probabilities, sums in fp64."""


def _rollout(stage: _Stage, policy: PolicyStage) -> Memory:
    """Answers are drawn: what training holds between steps, keys and values, logits."""
    setting = stage.setting
    shape, w, load = setting.shape, setting.width, setting.load
    rows = policy.batch_size * policy.num_generations
    prompt = max(row.prompt for row in load.micro)
    kept = shape.key_heads, shape.head_width, shape.layers, w
    asked = rows * (prompt + policy.max_new_tokens)
    cache = slot_bytes(*kept) * min(cached_tokens(*kept), asked)
    folded = analytic.folded(setting, rows * policy.max_new_tokens)
    static = {**analytic.training(setting).static, **folded}
    static.pop("gradients", None)
    parts = analytic.Parts(
        {**static, **stage.waiting},
        {
            "cache": cache * 3 // 2,
            "logits": min(rows, MAX_ROWS) * shape.vocabulary * (w + DRAWN_BYTES),
        },
        constants.libraries(setting.device),
    )
    return parts.memory(load.spread)


def _beside(memory: Memory, waiting: Mapping[str, int]) -> Memory:
    """The memory of a phase with other models waiting in the same process."""
    low, high = analytic.STATIC
    more = sum(waiting.values())
    return Memory(
        low=round(memory.low + more * low),
        expected=memory.expected + more,
        high=round(memory.high + more * high),
        components={**memory.components, **waiting},
    )
