"""Examine architectures in forked processes, each with a time limit."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.architectures.compare import Result, Setting, examine
from tests.architectures.models import Case

PROCESSES = 2
LIMIT_SECONDS = 300.0
FORK = multiprocessing.get_context("fork")

Work = Callable[[Case, Setting, Path], Result]


@dataclass
class Worker:
    """A process that examines one case."""

    case: Case
    process: BaseProcess
    connection: Connection
    deadline: float

    @property
    def remaining(self) -> float:
        """Seconds until the time limit."""
        return self.deadline - time.monotonic()


def prepare() -> None:
    """Import what every worker needs, once, before they are forked."""
    import torch
    import transformers

    import tunesmith_torch.generation.open_model
    import tunesmith_torch.training.supervised  # noqa: F401

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)  # a forked process has only one thread
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # A run collects garbage several times, each time through a million objects otherwise.
    gc.collect()
    gc.freeze()


def examine_all(
    cases: Sequence[Case],
    setting: Setting,
    *,
    processes: int = PROCESSES,
    work: Work = examine,
    limit: float = LIMIT_SECONDS,
) -> Iterator[Result]:
    """Yield the result of each case as soon as it is there; a case has ``limit`` seconds."""
    waiting, running = list(reversed(cases)), []
    while waiting or running:
        while waiting and len(running) < processes:
            running.append(start(waiting.pop(), setting, work, time.monotonic() + limit))
        timeout = max(0.0, min(worker.remaining for worker in running))
        wait([worker.connection for worker in running], timeout)
        for worker in list(running):
            result = collect(worker, limit)
            if result is not None:
                running.remove(worker)
                yield result


def start(case: Case, setting: Setting, work: Work, deadline: float) -> Worker:
    """Start a process for a case."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=run_case, args=(case, setting, work, theirs), daemon=True)
    process.start()
    theirs.close()
    return Worker(case, process, ours, deadline)


def collect(worker: Worker, limit: float) -> Result | None:
    """Return the result of a worker that has ended or is out of time; None: it still runs."""
    result: Result | None = None
    if worker.connection.poll():
        try:
            result = worker.connection.recv()
        except EOFError:
            worker.process.join()
            result = Result(str(worker.case), worker.case.model_type)
            result.fail("crash", f"the process ended with {worker.process.exitcode}")
    elif worker.remaining <= 0:
        worker.process.kill()
        result = Result(str(worker.case), worker.case.model_type)
        result.fail("crash", f"no result after {limit:.0f} seconds")
    if result is not None:
        worker.process.join()
        worker.connection.close()
    return result


def run_case(case: Case, setting: Setting, work: Work, connection: Any) -> None:
    """Examine a case in this process, with a folder and caches of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for variable in ("TUNESMITH_CACHE", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
            os.environ[variable] = str(folder / variable.lower())
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        connection.send(work(case, setting, folder))
