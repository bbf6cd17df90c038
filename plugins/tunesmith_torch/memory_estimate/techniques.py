"""What the offers of techniques call: estimates, and changes of options that save memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tunesmith.contracts import Economy, Estimate, EstimateRequest
from tunesmith.errors import TunesmithError
from tunesmith_torch.memory_estimate import analytic
from tunesmith_torch.memory_estimate.setting import Method, Setting
from tunesmith_torch.memory_estimate.workload import ALONE, Grouping
from tunesmith_torch.options.training import FitOptions, LoraOptions, QloraOptions

C = TypeVar("C", bound=FitOptions)
UNTRACED = (RuntimeError, NotImplementedError, ValueError, TunesmithError)
"""What a step that cannot be traced ends with."""


def full(options: FitOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """What training every weight would take."""
    yield from answers("full", options, request)


def lora(options: LoraOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """What training adapters would take."""
    yield from answers("lora", options, request)


def qlora(options: QloraOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """What training adapters over a quantised base would take."""
    yield from answers("qlora", options, request)


def answers(
    method: Method, options: FitOptions, request: EstimateRequest, grouping: Grouping = ALONE
) -> Iterator[Estimate]:
    """What a technique takes that trains on next tokens.

    Arithmetic first; then the step itself, on rows as they are.
    """
    setting = Setting.of(method, options, request, grouping)
    yield rough(setting, request)
    yield closer(setting, request)[1]


def rough(setting: Setting, request: EstimateRequest) -> Estimate:
    """The estimate by arithmetic."""
    return _at_least(setting, request, analytic.estimate(setting))


def _at_least(setting: Setting, request: EstimateRequest, estimate: Estimate) -> Estimate:
    """Where something is ``auto``, the low end is what the run comes to where memory is short."""
    if not setting.options.has_auto:
        return estimate
    options, load = setting.options.frugal(), setting.load
    least = analytic.estimate(Setting.of(setting.method, options, request, load.grouping)).memory
    memory = {
        phase: replace(memory, low=min(memory.low, least[phase].low))
        for phase, memory in estimate.memory.items()
    }
    return replace(estimate, memory=memory)


def closer(setting: Setting, request: EstimateRequest) -> tuple[Setting, Estimate]:
    """With rows as they are, where a tokenizer is at hand, and the step itself traced."""
    from tunesmith_torch.memory_estimate import token_lengths, traced  # imports torch

    options, load = setting.options, setting.load
    try:
        exact = token_lengths.exact(options, request, setting.shape.context, load.grouping)
        setting = replace(setting, load=exact or load)
        return setting, _at_least(setting, request, traced.estimate(setting))
    except UNTRACED as error:
        why = f"the step could not be traced, {error!s:.160}: its memory is estimated by arithmetic"
        found = rough(setting, request)
        return setting, replace(found, notes=(*found.notes, why))


def economies(options: C, table: str = "technique") -> Sequence[Economy[C]]:
    """Changes that save memory and leave the result as it is, the least painful first.

    ``table``: where the options stand in the run file.
    """
    found: list[Economy[C]] = []

    def offer(price: str, **changes: Any) -> None:
        # TOML and Python write strings and numbers alike; they differ in true and false.
        said = tuple(f"{table}.{k} = {str(v).lower()}" for k, v in changes.items())
        changed = options.model_copy(update=changes)
        found.append(Economy(changes=said, price=price, config=changed))

    if not options.packing:
        offer("none: rows are laid end to end instead of padded", packing=True)
    if options.micro_batch_tokens > 512:
        fewer = max(512, options.micro_batch_tokens // 4)
        offer(
            "a little time: more, smaller micro-batches, the same result", micro_batch_tokens=fewer
        )
    if options.gradient_checkpointing is False:
        offer(
            "about a third more time: activations are computed twice", gradient_checkpointing=True
        )
    if options.max_length > 512:
        shorter = options.max_length // 2
        price = f"rows of more than {shorter} tokens are left out"
        offer(price, max_length=shorter)
    return found


def adapter_economies(options: LoraOptions, table: str = "technique") -> Sequence[Economy[Any]]:
    """The same for adapters, whose rank can be lowered too."""
    found = list(economies(options, table))
    if options.rank > 8:
        rank = max(8, options.rank // 2)
        alpha = options.alpha * rank / options.rank  # the scale of the update stays
        changed = options.model_copy(update={"rank": rank, "alpha": alpha})
        said = (f"{table}.rank = {rank}", f"{table}.alpha = {alpha:g}")
        price = "adapters of lower rank can learn less"
        found.append(Economy(changes=said, price=price, config=changed))
    return found


def policy_economies(options: Any, table: str = "technique") -> Sequence[Economy[Any]]:
    """The same for a policy, whose weights may all move or through adapters."""
    some = economies if options.adapt == "full" else adapter_economies
    return some(options, table)


def stage_economies(options: Any) -> Sequence[Economy[Any]]:
    """The same for a technique of several stages, each with options like those of a policy.

    A change is made in all stages that it changes, because what one stage saves another may take.
    """
    found: dict[str, dict[str, Economy[Any]]] = {}
    for name in ("supervised", "reward", "policy"):
        stage = getattr(options, name)
        if not stage.skip:
            for economy in policy_economies(stage, f"technique.{name}"):
                found.setdefault(economy.price, {})[name] = economy
    return [
        Economy(
            changes=tuple(change for economy in stages.values() for change in economy.changes),
            price=price,
            config=options.model_copy(update={n: stages[n].config for n in stages}),
        )
        for price, stages in found.items()
    ]
