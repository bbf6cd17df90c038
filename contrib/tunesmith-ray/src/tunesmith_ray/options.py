"""Options of a run on Ray: the table ``[ray]``, and the flags of ``tunesmith ray submit``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from tunesmith.offers import TableOffer
from tunesmith.options import Options
from tunesmith_cli.launch import Gpus, parse_gpus

LOCAL = "local"
"""The address of a Ray that is started on this machine, for one run."""
FLAGS: Mapping[str, type] = {
    "address": str,
    "workers": int,
    "gpus": str,
    "processes": int,
    "cpus": int,
    "max_failures": int,
}
"""The options that have a flag, by key, with the type of its value: those that often differ."""


class RayOptions(Options):
    """Table ``[ray]``: what a run asks of the cluster. It does not change the run."""

    address: str | None = Field(
        None,
        min_length=1,
        description=(
            "Ray cluster: HOST:PORT of its head, ray://HOST:PORT from outside of it, or local to "
            "start a Ray on this machine for this run. Unset: RAY_ADDRESS, or the cluster that "
            "this machine belongs to."
        ),
    )
    workers: int = Field(
        1, ge=1, le=1024, description="Workers. Each is on one machine, several may share one."
    )
    gpus: Gpus = Field(
        0,
        description=(
            "GPUs of each worker, as a number or with Ray's type of accelerator: 2, A100:2. "
            "0: train on the CPU."
        ),
    )
    processes: int | None = Field(
        None, ge=1, le=256, description="Processes of each worker. Unset: one for each GPU."
    )
    cpus: int = Field(4, ge=1, description="Processor cores of each worker.")
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = Field(
        "pack",
        description=(
            "Workers on few machines, or on different ones if possible (strict: or not at all)."
        ),
    )
    max_failures: int = Field(
        3,
        ge=0,
        description="Times that the run is started again after a process or machine was lost.",
    )
    grace_seconds: int = Field(
        120,
        ge=1,
        description="Seconds for the step and the checkpoint of a run that is to stop.",
    )

    @property
    def gpu_count(self) -> int:
        """The number of GPUs of each worker."""
        return parse_gpus(self.gpus).count

    @property
    def processes_per_worker(self) -> int:
        return self.processes or max(1, self.gpu_count)

    @property
    def process_count(self) -> int:
        """Processes that train together, on all workers."""
        return self.workers * self.processes_per_worker


RAY: TableOffer[Any] = TableOffer(
    name="ray",
    summary="what a run asks of the cluster, for `tunesmith ray submit`",
    config=RayOptions,
)
