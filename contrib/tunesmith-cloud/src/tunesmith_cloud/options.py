"""Define the options of the ``[cloud]`` table, which all three launchers share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from tunesmith.offers import TableOffer
from tunesmith.options import Options
from tunesmith_cli.launch import Gpus, parse_gpus

Text = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
]


class CloudOptions(Options):
    """The ``[cloud]`` table: resources of a job on a cloud or cluster. They do not affect a run."""

    image: Text | None = Field(
        None,
        description=(
            "Container image with Python and, for Kubernetes, tunesmith. Required for Kubernetes; "
            "SkyPilot and dstack have default images."
        ),
    )
    gpus: Gpus = Field(
        0, description="Number of GPUs, optionally with their type: 2, A100:2. 0 trains on the CPU."
    )
    cpus: int = Field(4, ge=1, description="Processor cores.")
    memory: int = Field(16, ge=1, description="Main memory in GiB.")
    disk: int = Field(100, ge=10, description="Disk in GiB (SkyPilot, dstack).")
    volume: Text | None = Field(
        None,
        description=(
            "Name of the volume for the run folder, which outlives the machine: a Kubernetes "
            "volume claim, or a SkyPilot or dstack volume. It must be a file system with "
            "locks, not a bucket."
        ),
    )
    mount: str = Field(
        "/runs", pattern=r"^/[\w./-]+$", description="Path where the volume is mounted."
    )
    spot: bool = Field(False, description="Use preemptible (spot) machines (SkyPilot, dstack).")
    max_restarts: int = Field(
        20, ge=0, description="How often to restart an interrupted run. 0: never."
    )
    grace_seconds: int = Field(
        120, ge=1, description="Seconds to save a checkpoint after a stop signal (Kubernetes)."
    )
    namespace: Text | None = Field(
        None, description="Kubernetes namespace. Default: the current one."
    )
    setup: tuple[Text, ...] = Field(
        ("pip install tunesmith tunesmith-cloud",),
        description=(
            "Shell commands to run before the run starts (SkyPilot, dstack). Not needed if the "
            "image contains tunesmith."
        ),
    )

    @property
    def gpu_type(self) -> str:
        """The requested GPU type, or "" for any type."""
        return parse_gpus(self.gpus).type

    @property
    def gpu_count(self) -> int:
        """The number of GPUs, which is also the number of training processes."""
        return parse_gpus(self.gpus).count


CLOUD: TableOffer[Any] = TableOffer(
    name="cloud",
    summary="resources of a job on a cloud or cluster, for `tunesmith submit`",
    config=CloudOptions,
)
