"""Estimates for techniques that train a policy: on preferences, and against a reward model.

No torch here. A policy is adapted like a supervised model, so its step is estimated like one; what
these techniques hold beside it is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from tunesmith.contracts import Estimate, EstimateRequest, Memory
from tunesmith.records import Preference, Record
from tunesmith_torch.budget import MAX_ROWS, cached_tokens, slot_bytes
from tunesmith_torch.options import FitOptions, LoraOptions, QloraOptions
from tunesmith_torch.planner import analytic, framework
from tunesmith_torch.planner.setting import Method, Setting
from tunesmith_torch.preference_options import PolicyOptions

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


def pairs(request: EstimateRequest) -> EstimateRequest:
    """Rows with both answers: a prompt is computed once, and each answer behind it."""
    return replace(
        request,
        train=[_both(record) for record in request.train],
        heldout=[_both(record) for record in request.heldout],
    )


def preference(options: PolicyOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """What training on preferences would take.

    What the reference thinks is asked before training and remembered, so that it takes no memory
    beside the policy; its passes are counted as work.
    """
    from tunesmith_torch.planner.estimates import answers

    method, own = plain(options)
    for found in answers(method, own, pairs(request)):
        yield replace(found, flops=found.flops * (4 / 3))


def against_reward(
    policy: PolicyOptions, request: EstimateRequest, *, samples: int, answer_tokens: int
) -> Iterator[Estimate]:
    """Policy, reference and reward model in one process: by arithmetic, then with a traced step.

    ``rollout``: the policy answers, all weights are there, and keys and values of the answers.
    ``train``: the policy's step, with the reward model waiting. Adapters share their base with the
    reference; a policy whose weights all move has a frozen copy beside it.
    """
    method, own = plain(policy)
    setting = Setting.of(method, own, request)
    shape, w = setting.shape, setting.width
    frozen = shape.parameters * w if method == "full" else 0
    waiting = {"reward model": shape.parameters * w, "reference": frozen}
    found = analytic.estimate(setting)
    step = analytic.training(setting)
    memory: dict[str, Memory] = {
        "load": found.memory["load"],
        "rollout": _rollout(setting, waiting, samples, answer_tokens),
        "train": _beside(step.memory(setting.load.spread), waiting),
        "evaluate": found.memory["evaluate"],
    }
    drawn = 2.0 * shape.active_weights * found.tokens * samples
    rough = replace(found, memory=memory, flops=found.flops * samples + 3 * drawn)
    yield rough
    from tunesmith_torch.planner import estimates, traced  # imports torch

    try:
        train = _beside(traced.estimate(setting).memory["train"], waiting)
        yield replace(rough, method="traced", memory={**memory, "train": train})
    except estimates.UNTRACED as error:
        yield estimates.untraced(rough, error)


def _rollout(
    setting: Setting, waiting: Mapping[str, int], samples: int, answer_tokens: int
) -> Memory:
    """Answers are drawn: all weights, the optimizer that waits, keys and values, logits."""
    shape, w = setting.shape, setting.width
    rows = (setting.options.batch or 4) * samples
    asked = rows * (setting.load.longest + answer_tokens)
    kept = shape.key_heads, shape.head_width, shape.layers, w
    cache = slot_bytes(*kept) * min(cached_tokens(*kept), asked)
    optimizer = analytic.training(setting).static["optimizer"]
    parts = analytic.Parts(
        {"weights": setting.base_bytes, "optimizer": optimizer, **waiting},
        {"cache": cache * 3 // 2, "logits": min(rows, MAX_ROWS) * shape.vocabulary * (w + 8)},
        framework.libraries(setting.device),
    )
    return parts.memory(setting.load.spread)


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


def _both(record: Record) -> Record:
    if isinstance(record, Preference):
        return replace(record, chosen=f"{record.chosen}{record.rejected}")
    return record
