"""Choose between copies of the model and a sharded model for ``parallel = "auto"``.

The choice depends on the number of processes and the memory available to each. It is made when
training first starts with a given number of processes, reported in an event, and stored in the run
folder. A run that resumes with the same number keeps the choice, whatever memory is free by then.
With a different number it may switch, and continue from the same checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from tunesmith.contracts import Job
from tunesmith.errors import UsageError
from tunesmith.events import JSON, FindingReported
from tunesmith.storage import write_atomic
from tunesmith_torch.memory_estimate.parallel_choice import ParallelChoice, choose_parallel
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.training.auto_batch import GroupingOf, build_request
from tunesmith_torch.untrusted.foreign_code import read_json_object

PARALLEL_FILE = "parallel.json"
"""File in the job's folder that stores the choice for each number of processes."""


def resolve_parallel(job: Job[Any], grouping: GroupingOf) -> Job[Any]:
    """Return the job with ``"data"`` or ``"sharded"`` instead of ``"auto"``.

    Raises:
        UsageError: the options ask for sharded weights, but an addition needs all of them.
    """
    options: TrainingOptions = job.config
    if job.additions and options.parallel == "sharded" and distributed.world_size() > 1:
        raise UsageError(
            f"[{job.additions[0].table}]: the table needs all weights on each rank, but "
            'technique.parallel is "sharded"',
            hint='set technique.parallel = "data"',
        )
    if options.parallel != "auto":
        return job
    if job.additions:
        return replace(job, config=options.model_copy(update={"parallel": "data"}))
    choice = distributed.rank_0_first(lambda: _load_or_choose(job, grouping))
    if distributed.world_size() > 1:
        job.emit(FindingReported(level="info", source="technique.parallel", message=str(choice)))
    return replace(job, config=options.model_copy(update={"parallel": choice.parallel}))


def _load_or_choose(job: Job[Any], grouping: GroupingOf) -> ParallelChoice:
    """Return the stored choice for this number of processes, or choose and store it."""
    path, processes = job.out / PARALLEL_FILE, str(distributed.world_size())
    stored: JSON = read_json_object(path) if path.is_file() else {}
    if processes in stored:
        return ParallelChoice(**stored[processes])
    request = build_request(job)
    choice = choose_parallel(job.config, request, grouping(job.config, request.device))
    write_atomic(path, json.dumps({**stored, processes: asdict(choice)}, indent=2) + "\n")
    return choice
