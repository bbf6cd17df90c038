"""What plugins that start runs on clusters share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from tunesmith.errors import UsageError
from tunesmith.options import Options
from tunesmith_torch.runtime.launch import GpuRequest, Gpus, parse_gpus, refuse_unsuitable_job


class JobOptions(Options):
    """Options with GPUs."""

    gpus: Gpus = 0


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (0, ("", 0)),
        (2, ("", 2)),
        ("3", ("", 3)),
        ("A100:2", ("A100", 2)),
        ("h100-80.g:1", ("h100-80.g", 1)),
    ],
)
def test_gpus_are_a_number_or_a_type_and_a_number(
    gpus: int | str, expected: tuple[str, int]
) -> None:
    assert parse_gpus(gpus) == GpuRequest(*expected)
    assert JobOptions(gpus=gpus).gpus == gpus


@pytest.mark.parametrize("gpus", ["", "A100", "A100:", ":2", "two", "2:A100", "a b:1", "-1", -1])
def test_other_gpus_are_refused(gpus: int | str) -> None:
    with pytest.raises(ValueError, match="such as A100:2"):
        parse_gpus(gpus)
    with pytest.raises(ValidationError, match="such as A100:2"):
        JobOptions(gpus=gpus)


def plan(device: str = "auto", *, data_parallel: bool = True) -> Any:
    offer = SimpleNamespace(name="grow", data_parallel=data_parallel)
    return SimpleNamespace(
        technique=SimpleNamespace(offer=offer), run=SimpleNamespace(device=device)
    )


def test_a_run_that_suits_the_job_passes() -> None:
    for suitable, gpus, processes in (
        (plan(), 0, 4),
        (plan("cpu"), 0, 1),
        (plan("cuda"), "A100:2", 2),
        (plan(data_parallel=False), 1, 1),
    ):
        refuse_unsuitable_job(suitable, gpus, processes, table="slurm", hint="--processes 1")


def test_a_run_that_does_not_suit_the_job_is_refused() -> None:
    with pytest.raises(UsageError, match="grow: cannot train with the 2 processes") as caught:
        refuse_unsuitable_job(plan(data_parallel=False), 2, 2, table="cloud", hint="--gpus 1")
    assert caught.value.hint == "--gpus 1"
    for device, gpus in (("cuda", 0), ("mps", 0), ("cpu", "A100:1"), ("mps", 1)):
        with pytest.raises(UsageError, match=f"cloud.gpus is {gpus}, and run.device is {device}"):
            refuse_unsuitable_job(plan(device), gpus, 1, table="cloud", hint="--gpus 1")
