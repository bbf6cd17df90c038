"""The work of a cluster: what each worker reserves, and the variables of its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.config.trust import TRUST_VARIABLE
from tunesmith_ray.options import RayOptions
from tunesmith_ray.work import Rendezvous, Work, WorkerPlace

FIRST = WorkerPlace("n1", "10.0.0.1", 29500, "4,5")
SECOND = WorkerPlace("n2", "10.0.0.2", 29501, "0,1")
MEETING = Rendezvous([FIRST, SECOND], "start-1")


def work(**values: Any) -> Work:
    return Work.from_options(Path("/runs/a"), RayOptions(**values))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"CPU": 4}),
        ({"cpus": 2, "gpus": 2}, {"CPU": 2, "GPU": 2}),
        ({"gpus": "A100:1"}, {"CPU": 4, "GPU": 1, "accelerator_type:A100": 0.001}),
    ],
)
def test_a_worker_reserves_what_is_asked_for(
    options: dict[str, Any], expected: dict[str, float]
) -> None:
    assert work(**options).resources() == expected


def test_a_single_process_has_none_of_the_variables_of_torchrun() -> None:
    assert work(cpus=8).environment(0, 0, MEETING) == {
        "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "8",
    }  # fmt: skip


def test_nodes_trust_the_code_that_the_user_has_trusted_here() -> None:
    """Each has a state folder of its own, if they share no home."""
    trusting = Work.from_options(Path("/runs/a"), RayOptions(), trusts_code=True)
    assert trusting.environment(0, 0, MEETING)[TRUST_VARIABLE] == "1"
    assert TRUST_VARIABLE not in work().environment(0, 0, MEETING)


def test_processes_are_numbered_over_all_workers() -> None:
    """On two machines, with the GPUs of each numbered from 0."""
    both = work(workers=2, gpus=2, cpus=8)
    found = [both.environment(worker, index, MEETING) for worker in (0, 1) for index in (0, 1)]
    assert [each["RANK"] for each in found] == ["0", "1", "2", "3"]
    assert [each["LOCAL_RANK"] for each in found] == ["0", "1", "0", "1"]
    assert [each["GROUP_RANK"] for each in found] == ["0", "0", "1", "1"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["4,5", "4,5", "0,1", "0,1"]
    own = ("RANK", "CUDA")
    same = {key: found[0][key] for key in found[0] if not any(part in key for part in own)}
    assert all(same.items() <= each.items() for each in found)
    assert same == {
        "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "4", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "start-1",
    }  # fmt: skip
    assert found[0]["TUNESMITH_RANKS"] == "/runs/a/ray"


def test_workers_on_one_machine_are_counted_together() -> None:
    """Else each would take all of its memory. Of a GPU that a worker has, each sees its number."""
    three = work(workers=3, gpus=2)
    more = WorkerPlace("n1", "10.0.0.1", 29502, "0,1")
    meeting = Rendezvous([FIRST, SECOND, more], "start-1")
    found = [three.environment(worker, index, meeting) for worker in range(3) for index in (0, 1)]
    assert [each["RANK"] for each in found] == list("012345")
    assert [each["LOCAL_RANK"] for each in found] == ["0", "1", "0", "1", "2", "3"]
    assert [each["LOCAL_WORLD_SIZE"] for each in found] == ["4", "4", "2", "2", "4", "4"]
    assert [each["GROUP_RANK"] for each in found] == ["0", "0", "1", "1", "0", "0"]
    seen = [each["CUDA_VISIBLE_DEVICES"] for each in found]
    assert seen == ["4,5,0,1", "4,5,0,1", "0,1", "0,1", "4,5,0,1", "4,5,0,1"]


def test_machines_with_one_name_are_several() -> None:
    meeting = Rendezvous(
        [WorkerPlace("localhost", "10.0.0.1"), WorkerPlace("localhost", "10.0.0.2")], "start-1"
    )
    found = [work(workers=2).environment(worker, 0, meeting) for worker in (0, 1)]
    assert [each["LOCAL_WORLD_SIZE"] for each in found] == ["1", "1"]
    assert "CUDA_VISIBLE_DEVICES" not in found[0]


def test_more_processes_than_cores_have_a_thread_each() -> None:
    assert work(cpus=1, processes=3).threads == 1


def test_each_option_but_the_address_reaches_the_work() -> None:
    changed: dict[str, Any] = {
        "workers": 2, "gpus": 1, "processes": 2, "cpus": 2, "placement": "spread",
        "max_failures": 1, "grace_seconds": 5,
    }  # fmt: skip
    assert {*changed, "address"} == set(RayOptions.model_fields)
    for key, value in changed.items():
        assert work(**{key: value}) != work(), key


def test_a_description_shows_command_and_resources() -> None:
    facts = dict(work(workers=2, gpus="A100:1").describe("head:6379"))
    assert facts["cluster"] == "head:6379" and "GPU 1" in facts["workers"]
    assert facts["command"] == "python -P -m tunesmith resume /runs/a"
    assert "WORLD_SIZE=2" in facts["variables of rank 0"]
    assert "RANK" not in dict(work().describe(None))["variables of rank 0"]
