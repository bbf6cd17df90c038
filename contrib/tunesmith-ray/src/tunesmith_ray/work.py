"""Describe the processes of a run, and the resources of its workers, as plain values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.config.trust import TRUST_VARIABLE
from tunesmith.distributed import SHARED_FOLDER
from tunesmith_cli.launch import parse_gpus
from tunesmith_ray.options import RayOptions
from tunesmith_ray.rank import resume_arguments


@dataclass(frozen=True)
class WorkerPlace:
    """The host, address and GPUs of a worker."""

    host: str
    address: str
    port: int = 0
    """A free port of this host, for the rendezvous of the ranks."""
    gpus: str = ""
    """GPUs visible to the worker, in the format of CUDA_VISIBLE_DEVICES."""

    @property
    def machine(self) -> tuple[str, str]:
        """The host name and the address. Workers with the same pair share memory."""
        return self.host, self.address


@dataclass(frozen=True)
class Rendezvous:
    """The places of all workers in a start. The processes rendezvous at the first worker."""

    places: Sequence[WorkerPlace]
    id: str
    """Unique id of the start, so that processes of an earlier start cannot join."""


@dataclass(frozen=True)
class Work:
    """A run, and the workers that it needs."""

    folder: str
    """Absolute path of the run folder, the same on every machine."""
    workers: int = 1
    processes: int = 1
    """Number of processes per worker."""
    cpus: int = 1
    gpus: int = 0
    gpu_type: str = ""
    """Ray's accelerator type, or "" if any will do."""
    placement: str = "pack"
    max_failures: int = 3
    grace_seconds: int = 120
    trusts_code: bool = False
    """True if the user trusts the run's code, which the other machines may not know."""

    @classmethod
    def from_options(cls, folder: Path, options: RayOptions, *, trusts_code: bool = False) -> Work:
        """Return the work for a run with these options."""
        gpus = parse_gpus(options.gpus)
        return cls(
            folder=str(folder.absolute()),
            workers=options.workers,
            processes=options.processes_per_worker,
            cpus=options.cpus,
            gpus=gpus.count,
            gpu_type=gpus.type,
            placement=options.placement,
            max_failures=options.max_failures,
            grace_seconds=options.grace_seconds,
            trusts_code=trusts_code,
        )

    @property
    def process_count(self) -> int:
        return self.workers * self.processes

    def resources(self) -> dict[str, float]:
        """Return the resources of each worker, by Ray's names."""
        found: dict[str, float] = {"CPU": self.cpus}
        if self.gpus:
            found["GPU"] = self.gpus
            if self.gpu_type:  # a small share, as Ray itself uses to request a type
                found[f"accelerator_type:{self.gpu_type}"] = 0.001
        return found

    def environment(self, worker: int, index: int, meeting: Rendezvous) -> Mapping[str, str]:
        """Return the environment variables of one process of a worker.

        The variables match those of torchrun, which has one agent per machine. Workers on the same
        machine are therefore counted together, and each process sees the GPUs of all of them.
        """
        # Do not import modules from the folder where Ray was started, which may contain a json.py.
        variables = {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(self.threads)}
        if self.trusts_code:
            variables[TRUST_VARIABLE] = "1"
        if self.process_count == 1:
            return variables
        machines = [place.machine for place in meeting.places]
        here = [number for number, each in enumerate(machines) if each == machines[worker]]
        if self.gpus:
            seen = (meeting.places[number].gpus for number in here)
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(filter(None, seen))
        return {
            **variables,
            "RANK": str(worker * self.processes + index),
            "WORLD_SIZE": str(self.process_count),
            "LOCAL_RANK": str(here.index(worker) * self.processes + index),
            "LOCAL_WORLD_SIZE": str(len(here) * self.processes),
            "GROUP_RANK": str([*dict.fromkeys(machines)].index(machines[worker])),
            "MASTER_ADDR": meeting.places[0].address,
            "MASTER_PORT": str(meeting.places[0].port),
            "TORCHELASTIC_RUN_ID": meeting.id,
            SHARED_FOLDER: str(Path(self.folder) / "ray"),
        }

    @property
    def threads(self) -> int:
        """The number of threads per process, which is its share of the worker's cores."""
        return max(1, self.cpus // self.processes)

    def describe(self, address: str | None) -> list[tuple[str, str]]:
        """Return the lines of a dry run, as pairs of name and text."""
        each = ", ".join(f"{name} {count:g}" for name, count in self.resources().items())
        shown_places = [WorkerPlace(f"host-{number}", "ADDRESS") for number in range(self.workers)]
        variables = dict(self.environment(0, 0, Rendezvous(shown_places, "START")))
        if self.process_count > 1:
            variables["MASTER_PORT"] = "PORT"
        shown = " ".join(f"{name}={value}" for name, value in variables.items())
        return [
            ("cluster", address or "RAY_ADDRESS, or this machine's cluster"),
            ("workers", f"{self.workers}, each with {each}; placement {self.placement}"),
            ("processes", f"{self.process_count} ({self.processes} per worker)"),
            ("run folder", self.folder),
            ("command", shlex.join(["python", *resume_arguments(Path(self.folder))])),
            ("variables of rank 0", shown),
            ("restarts", f"at most {self.max_failures}, if a process or node is lost"),
        ]
