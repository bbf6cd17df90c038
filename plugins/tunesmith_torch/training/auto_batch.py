"""``auto``: how much is computed at once, and whether twice, from what fits into memory now.

The choice is made once, before the weights are read, said in an event and written down in the run
folder. A resumed run takes what is written there, whatever memory is free by then: otherwise it
would not come to the same weights.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.contracts import EstimateRequest, Job
from tunesmith.events import Noticed
from tunesmith.machine import available_memory
from tunesmith.storage import write_atomic
from tunesmith.text import bytes_text
from tunesmith_torch.memory_estimate import analytic
from tunesmith_torch.memory_estimate.policies import grouping, plain
from tunesmith_torch.memory_estimate.setting import Setting
from tunesmith_torch.memory_estimate.workload import FEW_ROWS
from tunesmith_torch.options.training import AUTO, LEAST_TOKENS, FitOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import pick_device

CHOSEN = "chosen.json"
"""File in the job's folder that remembers."""
SHARE = 0.9
"""Of the free memory, what the upper bound of a step may take."""
CANDIDATES = tuple(LEAST_TOKENS * 2**power for power in range(6, -1, -1))
"""Tokens at once: more than 32 768 keep no GPU busier."""


def settle(job: Job[Any]) -> Job[Any]:
    """The job with numbers in place of ``auto``; the very same job where there is none."""
    options: FitOptions = job.config
    if not options.has_auto:
        return job
    chosen, why = distributed.in_turn(lambda: _chosen(job))
    how = "computed again" if chosen["gradient_checkpointing"] else "kept"
    at_once = f"up to {chosen['micro_batch_tokens']} tokens at once, activations are {how}"
    message = f"{chosen['batch']} rows a step, {at_once}: {why}"
    job.emit(Noticed(level="info", source="memory", message=message))
    return replace(job, config=options.model_copy(update=chosen))


def _chosen(job: Job[Any]) -> tuple[dict[str, int], str]:
    """What is written in the run folder, or what is found now, and then written; and why."""
    path = job.out / CHOSEN
    if path.is_file():
        chosen: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
        return chosen, "as when the run began"
    free = _free(pick_device(job.device))
    chosen = choose(job.config, _request(job), free)
    write_atomic(path, json.dumps(chosen) + "\n")
    return chosen, "what is free is not known" if free is None else f"{bytes_text(free)} are free"


def choose(options: FitOptions, request: EstimateRequest, free: int | None) -> dict[str, int]:
    """Rows of a step, the most tokens at once whose step surely fits, and whether to recompute.

    Recomputation costs a third of the time and small micro-batches next to nothing, so it comes
    last. Where nothing surely fits, what takes least is tried.
    """
    batch = options.batch_size or FEW_ROWS
    fixed = bool(options.micro_batch_tokens) and options.batch_size != AUTO
    sizes = (options.micro_batch_tokens,) if fixed else CANDIDATES
    ways = (
        (False, True)
        if options.gradient_checkpointing is None
        else (options.gradient_checkpointing,)
    )
    chosen: dict[str, int] = {}
    for recomputed in ways:
        for tokens in sizes:
            chosen = {
                "batch_size": batch,
                "micro_batch_tokens": tokens,
                "gradient_checkpointing": recomputed,
            }
            tried = options.model_copy(update=chosen)
            setting = Setting.of(*plain(tried), request, grouping(tried, request))
            most = analytic.estimate(setting).memory["train"].high
            if free is not None and most <= SHARE * free:
                return chosen
    return chosen


def _request(job: Job[Any]) -> EstimateRequest:
    config = json.loads((Path(job.model) / "config.json").read_text(encoding="utf-8"))
    device = pick_device(job.device)
    return EstimateRequest(
        config=config,
        tokenizer=None,
        train=job.train,
        heldout=(),
        assumed=None,
        device="cuda" if device.type == "cuda" else "cpu",
        seed=job.seed,
    )


def _free(device: torch.device) -> int | None:
    """Bytes that this process may still take on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = available_memory()
    return (
        None if free is None else free // distributed.count()
    )  # which all come for their share of it
