"""Call Ray (only here): connect to clusters, and create the supervisor and its workers."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tunesmith.errors import EnvironmentProblem
from tunesmith.text import one_line
from tunesmith_ray.job_file import HEARTBEAT_SECONDS, find_job, is_cancel_requested, send_heartbeat
from tunesmith_ray.options import LOCAL
from tunesmith_ray.supervisor import ExitCodes, supervise
from tunesmith_ray.work import Rendezvous, Work
from tunesmith_ray.worker import PATIENCE_SECONDS, Worker

NAMESPACE = "tunesmith"
POLL_SECONDS = 1.0
ANSWER_SECONDS = 60.0
"""Seconds to wait for an actor's answer."""
CONNECT_SECONDS = 10.0
START_HINT = "start a cluster with `ray start --head`, or use --address local"
HEAD = {"node:__internal_head__": 0.001}
"""A fraction of a resource of the head node, so that actors live and die with the cluster."""


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connect to a cluster for the duration of the block, or start Ray on this machine.

    Raises:
        EnvironmentProblem: the cluster cannot be reached, or has different versions.
    """
    # Send no usage statistics, as Ray would if it is started here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    found = address or os.environ.get("RAY_ADDRESS") or "auto"
    refuse_silent_head(found)
    try:
        ray.init(
            address=found,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
            **({"include_dashboard": False} if address == LOCAL else {}),
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise EnvironmentProblem(
            f"ray.address: {one_line(str(error), 300)}",
            hint=START_HINT,
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def refuse_silent_head(address: str) -> None:
    """Raise an error if nothing listens at HOST:PORT. Ray would retry for five minutes.

    Raises:
        EnvironmentProblem: the address does not accept connections.
    """
    host, _, port = address.rpartition(":")
    if "//" in address or not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EnvironmentProblem(
            f"ray.address: no Ray cluster answers at {address}: {error}", hint=START_HINT
        ) from None


def find_shortage(work: Work) -> str:
    """Return a sentence about a resource that the cluster has too little of, or ""."""
    there = ray.cluster_resources()
    for name, count in work.resources().items():
        if count * work.workers > there.get(name, 0):
            return (
                f"the workers need {count * work.workers:g} {name}, but the cluster has "
                f"{there.get(name, 0):g}, so the run waits for more machines"
            )
    return ""


class Supervisor:
    """The actor that supervises a run. It outlives the command that created it.

    If its process is lost, Ray creates the actor again, which continues the job in the run folder.
    """

    def __init__(self, name: str, work: Work) -> None:
        self.name, self.work, self.folder = name, work, Path(work.folder)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._supervise, daemon=True)
        self.thread.start()
        threading.Thread(target=self._show_life, daemon=True).start()

    def is_alive(self) -> bool:
        """Return True while the supervisor's work is not finished."""
        return self.thread.is_alive()

    def must_stop(self) -> bool:
        """Return True if the run was canceled, or has a newer job (perhaps on another cluster)."""
        job = find_job(self.folder)
        return job is None or job.name != self.name or is_cancel_requested(self.folder, self.name)

    def _show_life(self) -> None:
        while not self.ended.wait(HEARTBEAT_SECONDS):
            send_heartbeat(self.folder)

    def _supervise(self) -> None:
        try:
            supervise(self.work, self.name, WorkersOnRay(self.must_stop), self.must_stop)
        finally:
            self.ended.set()
            ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def create_supervisor(name: str, work: Work) -> Any:
    """Start the supervisor of a run, and return its handle."""
    actor = ray.remote(Supervisor).options(
        name=name, namespace=NAMESPACE, lifetime="detached", num_cpus=0, resources=HEAD,
        max_restarts=-1, max_concurrency=2,
    )  # fmt: skip
    return actor.remote(name, work)


def find_supervisor(name: str) -> Any | None:
    """Return the supervisor of a run, or None if it has ended."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def is_alive(supervisor: Any) -> bool:
    """Return False if the supervisor has ended. While Ray recreates it, return True."""
    try:
        return bool(ray.get(supervisor.is_alive.remote(), timeout=ANSWER_SECONDS))
    except GetTimeoutError:
        return True
    except RayActorError:
        return False


class WorkersOnRay:
    """Starts the workers of a run as Ray actors in a placement group."""

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self.is_cancelled = is_cancelled

    def __call__(self, work: Work, has_begun: Callable[[Sequence[str]], None]) -> ExitCodes:
        """Start all processes once, and wait for them. See ``supervisor.StartWorkers``."""
        bundles = [work.resources() for _ in range(work.workers)]
        group = placement_group(bundles, strategy=work.placement.upper())
        try:
            if not self._wait_for_machines(group):
                return []
            return self._run(work, group, has_begun)
        finally:
            remove_placement_group(group)  # kills the remaining workers

    def _wait_for_machines(self, group: Any) -> bool:
        """Wait for the placement group. Return False if the run was canceled in the meantime."""
        ready = group.ready()
        while not ray.wait([ready], timeout=POLL_SECONDS)[0]:
            if self.is_cancelled():
                return False
        return True

    def _run(self, work: Work, group: Any, has_begun: Callable[[Sequence[str]], None]) -> ExitCodes:
        workers = [create_worker(work, number, group) for number in range(work.workers)]
        try:
            places = ray.get([worker.find_place.remote() for worker in workers])
        except RayActorError:
            return [None] * work.process_count  # a machine was lost in the meantime
        has_begun([place.host for place in places])
        meeting = Rendezvous(places, uuid.uuid4().hex)
        running = {worker.run.remote(meeting): n for n, worker in enumerate(workers)}
        return self._collect(work, workers, running)

    def _collect(self, work: Work, workers: Sequence[Any], running: dict[Any, int]) -> ExitCodes:
        """Wait for all workers. If one failed or the run was canceled, stop the others."""
        codes: dict[int, Sequence[int | None]] = {}
        was_cancelled = False
        while pending := [ref for ref, number in running.items() if number not in codes]:
            for ref in ray.wait(pending, timeout=POLL_SECONDS)[0]:
                codes[running[ref]] = found = get_codes(ref, work)
                if any(code != 0 for code in found):
                    ask_to_stop(workers, PATIENCE_SECONDS)
            if self.is_cancelled() and not was_cancelled:
                was_cancelled = True
                ask_to_stop(workers, 0)
        return [code for number in range(work.workers) for code in codes[number]]


def create_worker(work: Work, number: int, group: Any) -> Any:
    """Create the actor of a worker in its bundle of the placement group."""
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
    typed = {k: v for k, v in work.resources().items() if k not in ("CPU", "GPU")}
    actor = ray.remote(RayWorker).options(
        num_cpus=work.cpus, num_gpus=work.gpus, resources=typed, scheduling_strategy=strategy,
        max_restarts=0, max_concurrency=2,
    )  # fmt: skip
    return actor.remote(work, number)


class RayWorker(Worker):
    """A worker of a run, which is a Ray actor."""

    def __init__(self, work: Work, number: int) -> None:
        super().__init__(work, number, ray.util.get_node_ip_address())


def get_codes(ref: Any, work: Work) -> Sequence[int | None]:
    """Return the exit codes of an ended worker, or None for each process of a lost worker."""
    try:
        found: Sequence[int | None] = ray.get(ref)
    except RayActorError:
        return [None] * work.processes
    return found


def ask_to_stop(workers: Sequence[Any], seconds: float) -> None:
    """Ask workers to stop their processes after this many seconds, ignoring lost workers."""
    for worker in workers:
        worker.stop.remote(seconds)


def name_supervisor(folder: Path) -> str:
    """Return a unique name for the supervisor of a run."""
    return f"{folder.name}-{uuid.uuid4().hex[:8]}"
