"""Options of a job: the table ``[cloud]``, in words that all three launchers have."""

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
    """Table ``[cloud]``: what a job asks of a cloud or cluster. It does not change the run."""

    image: Text | None = Field(
        None,
        description=(
            "Container image with Python and, for Kubernetes, tunesmith. Kubernetes needs one; "
            "unset, SkyPilot and dstack take their own."
        ),
    )
    gpus: Gpus = Field(
        0, description="GPUs, as a number or with their type: 2, A100:2. 0: train on the CPU."
    )
    cpus: int = Field(4, ge=1, description="Processor cores.")
    memory: int = Field(16, ge=1, description="Main memory in GiB.")
    disk: int = Field(100, ge=10, description="Disk in GiB (SkyPilot, dstack).")
    volume: Text | None = Field(
        None,
        description=(
            "Name of the volume that keeps the run folder when a machine is lost: a claim of "
            "Kubernetes, a volume of SkyPilot or dstack. It must be a file system with locks, "
            "not a bucket."
        ),
    )
    mount: str = Field(
        "/runs", pattern=r"^/[\w./-]+$", description="Folder at which the volume is mounted."
    )
    spot: bool = Field(False, description="Machines that may be taken away (SkyPilot, dstack).")
    max_restarts: int = Field(
        20, ge=0, description="Times that an interrupted run is started again. 0: never."
    )
    grace_seconds: int = Field(
        120, ge=1, description="Seconds in which the run may save a checkpoint (Kubernetes)."
    )
    namespace: Text | None = Field(None, description="Namespace of Kubernetes. Unset: yours.")
    setup: tuple[Text, ...] = Field(
        ("pip install tunesmith tunesmith-cloud",),
        description="Lines of shell before the run (SkyPilot, dstack). An image has it already.",
    )

    @property
    def gpu_type(self) -> str:
        """The type of GPU that is asked for; "" for any."""
        return parse_gpus(self.gpus).type

    @property
    def gpu_count(self) -> int:
        """The number of GPUs, and of processes that train together."""
        return parse_gpus(self.gpus).count


CLOUD: TableOffer[Any] = TableOffer(
    name="cloud",
    summary="what a job asks of a cloud or cluster, for `tunesmith submit`",
    config=CloudOptions,
)
