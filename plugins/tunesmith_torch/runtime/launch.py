"""Parts of plugins that start runs on clusters: the GPUs of a job, and if a run suits it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from tunesmith.errors import UsageError
from tunesmith.plan import Plan

_GPUS = re.compile(r"(?:([\w.-]+):)?(\d+)", re.ASCII)


@dataclass(frozen=True)
class GpuRequest:
    """The GPUs that a job asks for."""

    type: str
    """"" for any."""
    count: int
    """Number of GPUs; 0: the job trains on the CPU."""


def parse_gpus(gpus: int | str) -> GpuRequest:
    """Read a number of GPUs, or their type and number.

    Raises:
        ValueError: it is neither.
    """
    found = _GPUS.fullmatch(str(gpus))
    if not found:
        raise ValueError("must be a number, or a type and a number such as A100:2")
    return GpuRequest(found[1] or "", int(found[2]))


def _check(gpus: int | str) -> int | str:
    parse_gpus(gpus)
    return gpus


Gpus = Annotated[int | str, AfterValidator(_check)]
"""Type of an option: a number of GPUs such as 2, or with their type, A100:2."""


def refuse_unsuitable_job(
    plan: Plan, gpus: int | str, processes: int, *, table: str, hint: str
) -> None:
    """Refuse a run that a job could not execute.

    ``table`` has the key ``gpus``; ``hint`` says how to ask for one process.

    Raises:
        UsageError: its technique trains with one process, and the job has several; or it trains on
            another device than the job has.
    """
    if processes > 1 and not plan.technique.offer.data_parallel:
        raise UsageError(
            f"technique {plan.technique.offer.name}: cannot train with the {processes} processes "
            "of this job",
            hint=hint,
        )
    wrong = ("cpu", "mps") if parse_gpus(gpus).count else ("cuda", "mps")
    if plan.run.device.startswith(wrong):
        raise UsageError(
            f"{table}.gpus is {gpus}, and run.device is {plan.run.device}",
            hint="leave run.device out, or change one of them",
        )
