"""Define the options of runs on Ray: table ``[ray]``, and flags of ``tunesmith ray submit``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from tunesmith.offers import TableOffer
from tunesmith.options import Options
from tunesmith_cli.launch import Gpus, parse_gpus

LOCAL = "local"
"""Address that starts Ray on this machine for a single run."""
FLAGS: Mapping[str, type] = {
    "address": str,
    "workers": int,
    "gpus": str,
    "processes": int,
    "cpus": int,
    "max_failures": int,
}
"""Options with a command-line flag, and the types of their values."""


class RayOptions(Options):
    """The ``[ray]`` table: resources of a run on the cluster. They do not change the run."""

    address: str | None = Field(
        None,
        min_length=1,
        description=(
            "Ray cluster: HOST:PORT of its head node, ray://HOST:PORT from outside the cluster, or "
            "local to start Ray on this machine for this run. Unset: RAY_ADDRESS, or the cluster "
            "that this machine belongs to."
        ),
    )
    workers: int = Field(
        1, ge=1, le=1024, description="Number of workers. Several workers may share a machine."
    )
    gpus: Gpus = Field(
        0,
        description=(
            "GPUs per worker, optionally with Ray's accelerator type: 2, A100:2. "
            "0 trains on the CPU."
        ),
    )
    processes: int | None = Field(
        None, ge=1, le=256, description="Processes per worker. Unset: one per GPU."
    )
    cpus: int = Field(4, ge=1, description="Processor cores per worker.")
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = Field(
        "pack",
        description=(
            "Put workers on few machines (pack) or on different ones (spread) if possible; the "
            "strict_ variants enforce it."
        ),
    )
    max_failures: int = Field(
        3,
        ge=0,
        description="How often to restart the run after a process or machine is lost.",
    )
    grace_seconds: int = Field(
        120,
        ge=1,
        description="Seconds to finish the step and save a checkpoint when the run must stop.",
    )

    @property
    def gpu_count(self) -> int:
        """The number of GPUs per worker."""
        return parse_gpus(self.gpus).count

    @property
    def processes_per_worker(self) -> int:
        return self.processes or max(1, self.gpu_count)

    @property
    def process_count(self) -> int:
        """The number of training processes on all workers together."""
        return self.workers * self.processes_per_worker


RAY: TableOffer[Any] = TableOffer(
    name="ray",
    summary="resources of a run on the cluster, for `tunesmith ray submit`",
    config=RayOptions,
)
