"""Functions for technique offers: memory estimates, and option changes that save memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from tunesmith.errors import TunesmithError
from tunesmith.estimates import Estimate, EstimateRequest, MemorySaving
from tunesmith_torch.memory_estimate import analytic
from tunesmith_torch.memory_estimate.parallel_choice import build_estimate_setting
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.workload import SINGLE_COMPLETION, Grouping
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime.environment import prepare_environment

if TYPE_CHECKING:  # it imports transformers
    from tunesmith_torch.data.templates import Template

__all__ = ["estimate_supervised", "memory_savings", "stage_memory_savings"]

OptionsT = TypeVar("OptionsT", bound=TrainingOptions)
TRACE_ERRORS = (RuntimeError, NotImplementedError, ValueError, TunesmithError)
"""Exceptions raised by a step that cannot run on fake tensors."""


def estimate_supervised(
    options: TrainingOptions,
    request: EstimateRequest,
    grouping: Grouping = SINGLE_COMPLETION,
    *,
    convert_template: Callable[[Template], Template] | None = None,
) -> Iterator[Estimate]:
    """Yield three estimates: by arithmetic, with exact row lengths, and with a traced step.

    Without a tokenizer or rows, there is no estimate with exact lengths. ``convert_template``
    returns the template that training uses in place of the model's own.
    """
    setting = build_estimate_setting(options, request, grouping)
    first = analytic_estimate(setting, request)
    yield replace(first, has_guessed_lengths=can_count_tokens(request))
    if can_count_tokens(request):
        setting = count_tokens(setting, request, convert_template)
        yield analytic_estimate(setting, request)
    yield traced_estimate(setting, request)


def analytic_estimate(setting: EstimateSetting, request: EstimateRequest) -> Estimate:
    """Return the estimate by arithmetic; its lower bound allows any values of ``auto`` options."""
    return _lower_bound_of_auto(setting, request, analytic.estimate(setting))


def _lower_bound_of_auto(
    setting: EstimateSetting, request: EstimateRequest, estimate: Estimate
) -> Estimate:
    """Lower the estimate's lower bound to the least memory that its ``auto`` options allow."""
    if not setting.options.has_auto:
        return estimate
    options, workload = setting.options.with_smallest_memory(), setting.workload
    smallest = analytic.estimate(
        EstimateSetting.from_request(options, request, workload.grouping)
    ).memory
    memory = {
        phase: replace(memory, low=min(memory.low, smallest[phase].low))
        for phase, memory in estimate.memory.items()
    }
    return replace(estimate, memory=memory)


def can_count_tokens(request: EstimateRequest) -> bool:
    """Return True if the request has a tokenizer and rows, so that lengths need no guess."""
    return request.tokenizer is not None and request.assumed is None and bool(request.train)


def count_tokens(
    setting: EstimateSetting,
    request: EstimateRequest,
    convert_template: Callable[[Template], Template] | None = None,
) -> EstimateSetting:
    """Return the setting with the exact lengths of its rows. This imports torch."""
    prepare_environment()  # the run will use the torch that is imported here
    from tunesmith_torch.memory_estimate.token_lengths import exact_workload

    context, grouping = setting.shape.context_length, setting.workload.grouping
    exact = exact_workload(
        setting.options, request, context, grouping, convert_template=convert_template
    )
    return replace(setting, workload=exact or setting.workload)


def import_tracing() -> None:
    """Import torch and the modules that trace a step, which are not needed before."""
    prepare_environment()  # the run will use the torch that is imported here
    from tunesmith_torch.memory_estimate import traced  # noqa: F401


def traced_estimate(setting: EstimateSetting, request: EstimateRequest) -> Estimate:
    """Return the estimate of a traced step.

    If the step cannot be traced, return the analytic estimate with the reason as its last note.
    """
    import_tracing()
    from tunesmith_torch.memory_estimate import traced

    try:
        return _lower_bound_of_auto(setting, request, traced.estimate(setting))
    except TRACE_ERRORS as error:
        note = (
            f"the step could not be traced ({error!s:.160}); its memory is computed from the config"
        )
        fallback = analytic_estimate(setting, request)
        return replace(fallback, notes=(*fallback.notes, note))


def memory_savings(options: OptionsT, table: str = "technique") -> Sequence[MemorySaving[OptionsT]]:
    """Return option changes that save memory, those with the fewest side effects first.

    ``table`` is the run-file table that contains the options.
    """
    savings: list[MemorySaving[OptionsT]] = []

    def add(cost: str, **changes: Any) -> None:
        # TOML and Python write numbers alike; lower() turns True and False into TOML.
        lines = tuple(f"{table}.{k} = {str(v).lower()}" for k, v in changes.items())
        changed = options.model_copy(update=changes)
        savings.append(MemorySaving(changes=lines, cost=cost, config=changed))

    if not options.packing:
        add("none: rows are concatenated instead of padded", packing=True)
    if options.micro_batch_tokens > 512:
        fewer = max(512, options.micro_batch_tokens // 4)
        add("slightly slower: more, smaller micro-batches; same results", micro_batch_tokens=fewer)
    if options.gradient_checkpointing is False:
        add("about a third slower: activations are computed twice", gradient_checkpointing=True)
    if options.max_length > 512:
        shorter = options.max_length // 2
        add(f"rows longer than {shorter} tokens are skipped", max_length=shorter)
    if options.parallel == "data" and options.can_be_sharded:
        shards = options.model_copy(update={"parallel": "sharded"})
        cost = "more communication; saves memory only with several processes"
        setting = f'{table}.parallel = "sharded"'
        savings.append(MemorySaving(changes=(setting,), cost=cost, config=shards))
    adapter = options.adaptation.adapter
    if adapter is not None and adapter.rank > 8:
        rank = max(8, adapter.rank // 2)
        alpha = adapter.alpha * rank / adapter.rank  # keeps the adapters' scale, alpha / rank
        smaller = adapter.model_copy(update={"rank": rank, "alpha": alpha})
        lines = (f"{table}.adapter.rank = {rank}", f"{table}.adapter.alpha = {alpha:g}")
        changed = options.model_copy(update={"adapter": smaller})
        cost = "adapters of lower rank can learn less"
        savings.append(MemorySaving(changes=lines, cost=cost, config=changed))
    return savings


def stage_memory_savings(options: Any, names: Sequence[str]) -> Sequence[MemorySaving[Any]]:
    """Return the memory savings of a technique whose options hold the stages ``names``.

    A change is applied to every stage where it saves memory, because the largest stage determines
    the run's peak.
    """
    by_cost: dict[str, dict[str, MemorySaving[Any]]] = {}
    for name in names:
        stage = getattr(options, name)
        if not stage.skip:
            for saving in memory_savings(stage, f"technique.{name}"):
                by_cost.setdefault(saving.cost, {})[name] = saving
    return [
        MemorySaving(
            changes=tuple(change for saving in stages.values() for change in saving.changes),
            cost=cost,
            config=options.model_copy(update={n: stages[n].config for n in stages}),
        )
        for cost, stages in by_cost.items()
    ]
