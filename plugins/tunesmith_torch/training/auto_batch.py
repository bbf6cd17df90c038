"""Choose values for options set to ``"auto"``, based on the free memory.

``batch_size``, ``micro_batch_tokens`` and ``gradient_checkpointing`` may be ``"auto"``. The choice
is made once, before the weights are read, reported in an event and stored in the run folder. A
resumed run reads the stored values even if a different amount of memory is free by then: different
micro-batches would not give the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.contracts import Job
from tunesmith.estimates import EstimateRequest
from tunesmith.events import FindingReported
from tunesmith.storage import write_atomic
from tunesmith.text import format_bytes, format_count
from tunesmith_torch.memory_estimate.parallel_choice import training_fits
from tunesmith_torch.memory_estimate.workload import AUTO_BATCH_SIZE, Grouping
from tunesmith_torch.options.training import AUTO, MIN_MICRO_BATCH_TOKENS, TrainingOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import pick_device
from tunesmith_torch.runtime.machine import available_memory, count_local_ranks
from tunesmith_torch.untrusted.foreign_code import read_json_object

GroupingOf = Callable[[Any, str], Grouping]
"""A function that returns how records are grouped, given the options and the device type."""

CHOSEN_FILE = "chosen.json"
"""File in the job's folder that stores the chosen values."""
TOKEN_CANDIDATES = tuple(MIN_MICRO_BATCH_TOKENS * 2**power for power in range(6, -1, -1))
"""Micro-batch sizes to try, largest first. Above 32,768 tokens, no GPU gets faster."""


def resolve_auto(job: Job[Any], grouping: GroupingOf) -> Job[Any]:
    """Return the job with values instead of ``"auto"`` in its batch and memory options."""
    options: TrainingOptions = job.config
    if not options.has_auto:
        return job
    chosen, reason = distributed.rank_0_first(lambda: _load_or_choose(job, grouping))
    activations = "recomputed" if chosen["gradient_checkpointing"] else "kept"
    micro_batches = f"micro-batches of up to {chosen['micro_batch_tokens']} tokens"
    message = (
        f"{format_count(chosen['batch_size'], 'row')} per step, {micro_batches}, "
        f"activations {activations}: {reason}"
    )
    job.emit(FindingReported(level="info", source="memory", message=message))
    return replace(job, config=options.model_copy(update=chosen))


def _load_or_choose(job: Job[Any], grouping: GroupingOf) -> tuple[dict[str, int], str]:
    """Return the stored values, or choose and store them; also return a reason for the event."""
    path = job.out / CHOSEN_FILE
    if path.is_file():
        return read_json_object(path), "chosen when the run started"
    request = build_request(job)
    free = request.process_memory
    chosen = choose_batch(job.config, request, free, grouping(job.config, request.device))
    write_atomic(path, json.dumps(chosen) + "\n")
    return chosen, "free memory is unknown" if free is None else f"{format_bytes(free)} free"


def choose_batch(
    options: TrainingOptions, request: EstimateRequest, free: int | None, grouping: Grouping
) -> dict[str, int]:
    """Choose the rows of a step, the tokens of a micro-batch, and gradient checkpointing.

    Take the largest micro-batch for which the upper bound of the memory estimate leaves some of the
    ``free`` bytes unused. Gradient checkpointing is tried last: it makes training a third slower,
    while small micro-batches cost next to nothing. If nothing fits, or ``free`` is None, return the
    combination that needs the least memory.
    """
    batch = options.batch_size or AUTO_BATCH_SIZE
    fixed = bool(options.micro_batch_tokens) and options.batch_size != AUTO
    sizes = (options.micro_batch_tokens,) if fixed else TOKEN_CANDIDATES
    checkpointing_choices = (
        (False, True)
        if options.gradient_checkpointing is None
        else (options.gradient_checkpointing,)
    )
    chosen: dict[str, int] = {}
    for gradient_checkpointing in checkpointing_choices:
        for tokens in sizes:
            chosen = {
                "batch_size": batch,
                "micro_batch_tokens": tokens,
                "gradient_checkpointing": gradient_checkpointing,
            }
            candidate = options.model_copy(update=chosen)
            if training_fits(candidate, request, grouping, free):
                return chosen
    return chosen


def build_request(job: Job[Any]) -> EstimateRequest:
    """Return the request for a memory estimate of this training, with the memory free now."""
    config = read_json_object(Path(job.model) / "config.json")
    device = pick_device(job.device)
    return EstimateRequest(
        config=config,
        tokenizer=None,
        train=job.train,
        test=(),
        assumed=None,
        device="cuda" if device.type == "cuda" else "cpu",
        seed=job.seed,
        processes=distributed.world_size(),
        process_memory=_free_bytes(device),
    )


def _free_bytes(device: torch.device) -> int | None:
    """Return the bytes that this process may still allocate on the device, or None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = available_memory()
    # The ranks on one machine divide its memory equally.
    return None if free is None else free // count_local_ranks(distributed.world_size())
