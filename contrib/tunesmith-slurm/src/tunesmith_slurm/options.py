"""Define the options of a job: table ``[slurm]``, and flags of ``tunesmith slurm submit``.

The keys are the names that Slurm uses for the options of sbatch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from tunesmith.offers import TableOffer
from tunesmith.options import Options
from tunesmith_cli.launch import Gpus, parse_gpus

# No control characters, because they could end the line of an option in the script.
Text = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
]

_DURATION = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})", re.ASCII)
_MEMORY = re.compile(r"(\d+)([KMGT]?)", re.ASCII)
_UNITS = {"K": 1 << 10, "": 1 << 20, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_OPTION = re.compile(r"--[a-z][a-z-]*(=[^\x00-\x1f\x7f]*)?", re.ASCII)

FLAGS: Mapping[str, type] = {
    "partition": str,
    "account": str,
    "qos": str,
    "constraint": str,
    "nodes": int,
    "gpus": str,
    "processes": int,
    "cpus_per_task": int,
    "mem": str,
    "time": str,
}
"""Options with a command-line flag, and the types of their values."""


class SlurmOptions(Options):
    """The ``[slurm]`` table: resources of a job on the cluster. They do not change the run."""

    partition: Text | None = Field(None, description="Partition. Unset: the cluster's default.")
    account: Text | None = Field(None, description="Account to charge the job to.")
    qos: Text | None = Field(None, description="Quality of service.")
    constraint: Text | None = Field(None, description="Features of the node, such as a100|h100.")
    nodes: int = Field(1, ge=1, description="Number of machines; must be 1.")
    gpus: Gpus = Field(
        0, description="Number of GPUs, optionally with their type: 2, a100:2. 0 trains on the CPU."
    )
    processes: int | None = Field(
        None, ge=1, le=256, description="Number of training processes. Unset: one per GPU."
    )
    cpus_per_task: int = Field(4, ge=1, description="Processor cores of the job.")
    mem: str | None = Field(
        None,
        description="Main memory of the job, such as 32G or 512M. Unset: the cluster's default.",
    )
    time: int | str | None = Field(
        None,
        description=(
            "Time limit: minutes, or text such as 12:00:00 or 1-06:00:00. A run that needs more "
            "time is requeued and continues. Unset: the cluster's default."
        ),
    )
    grace_seconds: int = Field(
        120,
        ge=1,
        le=65_535,
        validate_default=True,
        description=(
            "Number of seconds before the time limit at which the run stops and saves a checkpoint."
        ),
    )
    max_requeues: int = Field(
        100, ge=0, description="How often to requeue an interrupted run. 0: never."
    )
    setup: tuple[Text, ...] = Field(
        (), description="Shell commands to run before the run starts, such as module load cuda."
    )
    sbatch: tuple[Text, ...] = Field(
        (), description="Additional sbatch options, such as --mail-type=END."
    )

    @field_validator("nodes")
    @classmethod
    def _refuse_several_nodes(cls, nodes: int) -> int:
        if nodes > 1:
            raise ValueError(
                "must be 1: a job of `tunesmith slurm submit` uses one machine; for several, write "
                "a script that calls torchrun on each machine (docs/how-to/machines.md)"
            )
        return nodes

    @field_validator("mem")
    @classmethod
    def _check_memory(cls, mem: str | None) -> str | None:
        if mem is not None and not _MEMORY.fullmatch(mem):
            raise ValueError("must be a number with K, M, G or T, such as 32G")
        return mem

    @field_validator("time")
    @classmethod
    def _check_time(cls, time: int | str | None) -> int | str | None:
        if time is not None and not parse_seconds(str(time)):
            raise ValueError("must be a number of minutes, or text such as 12:00:00 or 1-06:00:00")
        return time

    @field_validator("sbatch")
    @classmethod
    def _check_options(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            if not _OPTION.fullmatch(option):
                raise ValueError(f"must be options such as --mail-type=END, got {option!r}")
        return options

    @field_validator("grace_seconds")
    @classmethod
    def _check_grace(cls, grace: int, info: ValidationInfo) -> int:
        time = info.data.get("time")  # The value is absent if it is not valid itself.
        seconds = None if time is None else parse_seconds(str(time))
        if seconds is not None and seconds <= grace:
            raise ValueError(f"must be shorter than `time`, which is {seconds} seconds")
        return grace

    @property
    def gpu_type(self) -> str:
        """The requested GPU type, or "" for any type."""
        return parse_gpus(self.gpus).type

    @property
    def gpu_count(self) -> int:
        return parse_gpus(self.gpus).count

    @property
    def process_count(self) -> int:
        """The number of training processes, which is at least 1."""
        return self.processes or max(1, self.gpu_count)

    @property
    def bytes(self) -> int | None:
        """The main memory in bytes, or None if the cluster decides. Slurm's units are binary."""
        found = _MEMORY.fullmatch(self.mem or "")
        return int(found[1]) * _UNITS[found[2]] if found else None

    @property
    def seconds(self) -> int | None:
        """The time limit in seconds, or None if the cluster decides."""
        return None if self.time is None else parse_seconds(str(self.time))


def parse_seconds(text: str) -> int | None:
    """Convert a Slurm time limit to seconds, or return None if it is malformed.

    The formats are M, M:S, H:M:S, D-H, D-H:M and D-H:M:S.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return ((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    hours, minutes, seconds = parts if len(parts) == 3 else [0, *parts, 0][:3]
    return (hours * 60 + minutes) * 60 + seconds


SLURM: TableOffer[Any] = TableOffer(
    name="slurm",
    summary="resources of a job on the cluster, for `tunesmith slurm submit`",
    config=SlurmOptions,
)
