"""Two ranks train like a single process, and an error on one rank ends both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rank_cases
import torch
from safetensors.torch import load_file
from tables import build
from torch import Tensor
from torch.distributed import HashStore
from torch.distributed.distributed_c10d import PrefixStore
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith.errors import EnvironmentProblem, RunStopped, UsageError
from tunesmith_plugins.techniques.rlhf import stages
from tunesmith_torch.runtime import device, distributed, form_group
from tunesmith_torch.runtime.distributed import ProcessGroup
from tunesmith_torch.testing.tiny_model import save_tiny_model

RANKS = 2


@pytest.fixture(scope="session")
def ranks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which two ranks have run all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    save_tiny_model(folder / "model")
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}"]
    names = [*rank_cases.EQUAL, *rank_cases.SHARDED, *rank_cases.FAULTS]
    done = subprocess.run(
        [*torchrun, rank_cases.__file__, str(folder), *names],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def endings(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((folder / name / f"rank-{n}.json").read_text()) for n in range(RANKS)]


def read_events(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / name / "events.json").read_text())
    return found


def assert_close(one: Any, two: Any, where: str) -> None:
    """Check that both are equal up to rounding, number by number."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_close(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, float):
        assert one == pytest.approx(two, rel=2e-5, abs=2e-6), where
    else:
        assert one == two, where


@pytest.mark.processes
@pytest.mark.parametrize("name", [*rank_cases.EQUAL, *rank_cases.SHARDED])
def test_ranks_train_like_a_single_process(ranks_folder: Path, tmp_path: Path, name: str) -> None:
    """All events of every step, and the final weights, are equal."""
    rank_cases.run_cases([name], tmp_path, ranks_folder / "model")
    (single,) = [json.loads((tmp_path / name / "rank-0.json").read_text())]
    assert single["ended"] == ""
    assert [end["ended"] for end in endings(ranks_folder, name)] == [""] * RANKS
    all_ranks, single_process = read_events(ranks_folder, name), read_events(tmp_path, name)
    assert len(all_ranks) == len(single_process) > 1
    for number, (one, two) in enumerate(zip(all_ranks, single_process, strict=True)):
        assert_close(one, two, str(number))
    weights = load_file(tmp_path / name / "weights")
    for key, tensor in load_file(ranks_folder / name / "weights").items():
        torch.testing.assert_close(tensor, weights[key], rtol=2e-5, atol=2e-5, msg=key)


@pytest.mark.processes
@pytest.mark.parametrize("name", [*rank_cases.EQUAL, *rank_cases.SHARDED, "memory"])
def test_all_ranks_have_the_same_bits(ranks_folder: Path, name: str) -> None:
    one, *others = endings(ranks_folder, name)
    assert all(other["digest"] == one["digest"] for other in others)


@pytest.mark.processes
def test_rows_that_are_tokenized_when_needed_give_the_same_bits(ranks_folder: Path) -> None:
    streamed, in_advance = (endings(ranks_folder, name)[0] for name in ("streamed", "full"))
    assert streamed["digest"] == in_advance["digest"]


@pytest.mark.processes
def test_out_of_memory_on_one_rank_does_not_change_the_result(ranks_folder: Path) -> None:
    """That rank halves its micro-batches, and all ranks compute the batch again."""
    assert [end["ended"] for end in endings(ranks_folder, "memory")] == [""] * RANKS
    for one, two in zip(
        read_events(ranks_folder, "memory"), read_events(ranks_folder, "full"), strict=True
    ):
        assert_close(one, two, "memory")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not a number", "TrainingError: step 2: the loss is not finite"),
        ("a bug", "TrainingError: rank 1: KeyError: 'where'"),
        ("no room", "TrainingError: rank 1: OutOfMemoryError"),
        ("other weights", "TrainingError: rank 1: the weights differ from those of rank 0"),
    ],
)
def test_an_error_on_one_rank_ends_all_ranks_with_that_error(
    ranks_folder: Path, name: str, message: str
) -> None:
    first, *others = endings(ranks_folder, name)
    assert first["ended"].startswith(message)
    assert [end["ended"].partition(":")[0] for end in others] == ["EndedByRankZero"] * len(others)


@pytest.mark.processes
def test_a_post_mortem_is_written_once(ranks_folder: Path) -> None:
    found = json.loads((ranks_folder / "not a number" / "run" / "postmortem.json").read_text())
    assert found["step"] == 2
    assert "nan" in found["losses"]
    assert len(found["rows"]) == 4


class Watcher(TorchDispatchMode):
    """A log of new storages, exchanges and sums, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(tensor, Tensor) and tensor.numel():
                self.log.append(tensor.untyped_storage().data_ptr())
        return found


class LoggedGroup(ProcessGroup):
    """Two ranks that always have the same values; exchanges and sums are logged."""

    def __init__(self, log: list[Any]) -> None:
        super().__init__(0, 2, bucket_numel=10)
        self.log = log

    def exchange(self, message: dict[str, Any]) -> list[Any]:
        self.log.append("exchange")
        return [message["value"]] * self.world_size

    def sum_in_place(self, tensor: Tensor) -> None:
        self.log.append("sum")
        tensor.mul_(2)


def test_nothing_is_allocated_after_the_last_exchange() -> None:
    """An allocation could fail on one rank while the others wait in a sum that never ends."""
    watcher = Watcher()
    parameters = [torch.nn.Parameter(torch.ones(n)) for n in (3, 4, 5, 30)]
    parameters.append(torch.nn.Parameter(torch.ones(3, 2, dtype=torch.float64)))
    parameters.append(torch.nn.Parameter(torch.ones(4, 2)))
    for number, parameter in enumerate(parameters[1:]):
        parameter.grad = torch.full_like(parameter, number)
    parameters[-1].grad = torch.full((2, 4), 4.0).t()
    known = {p.grad.untyped_storage().data_ptr() for p in parameters if p.grad is not None}
    with distributed.join_group(LoggedGroup(watcher.log)), watcher:
        distributed.all_reduce_gradients(parameters)
    last = len(watcher.log) - 1 - watcher.log[::-1].index("exchange")
    assert watcher.log[last:].count("sum") == watcher.log.count("sum") > 3
    before = known | {entry for entry in watcher.log[:last] if isinstance(entry, int)}
    after = {entry for entry in watcher.log[last:] if isinstance(entry, int)}
    assert after <= before
    assert parameters[0].grad is None
    for number, parameter in enumerate(parameters[1:]):
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 2 * number))


@pytest.fixture
def start_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """``start_rank(1, 3)``: this process is rank 1 of 3, as torchrun would start it."""

    def start(number: int, count: int) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
        monkeypatch.setenv("WORLD_SIZE", str(count))
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("LOCAL_RANK", str(number))

    return start


def test_a_signal_ends_the_wait_for_other_ranks(start_rank: Callable[[int, int], None]) -> None:
    store = PrefixStore("test", HashStore())
    events = []

    def emit(event: Any) -> None:
        events.append(event)
        if len(events) == 3:
            raise RunStopped("stopped by SIGTERM", exit_code=143)

    start_rank(0, 3)
    store.set("arrived-2", "")
    with pytest.raises(RunStopped):
        form_group.wait_for_all_ranks(store, emit, poll_seconds=0.0)
    start_rank(1, 3)
    form_group.wait_for_all_ranks(store, emit)
    start_rank(0, 3)
    form_group.wait_for_all_ranks(store, emit)
    assert len(events) == 3


def simulate_accelerators(monkeypatch: pytest.MonkeyPatch, *, gpus: int, mps: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)


def test_more_ranks_than_gpus_are_refused_on_rank_0(
    start_rank: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_rank(0, 2)
    simulate_accelerators(monkeypatch, gpus=1, mps=False)
    with pytest.raises(EnvironmentProblem, match="2 ranks need a GPU each, but this machine has 1"):
        device.pick_device("auto")
    simulate_accelerators(monkeypatch, gpus=2, mps=False)
    assert device.pick_device("auto") == torch.device("cuda:0")


def test_several_ranks_on_mps_are_advised_to_use_the_cpu(
    start_rank: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_rank(0, 2)
    simulate_accelerators(monkeypatch, gpus=0, mps=True)
    with pytest.raises(UsageError) as caught:
        device.pick_device("auto")
    assert caught.value.hint == "use cpu"


class StopTest(Exception):
    """Ends the code under test after the part that is tested."""


class StoppedGroup(ProcessGroup):
    """Ranks of which the first exchange ends the test."""

    def exchange(self, message: dict[str, Any]) -> list[Any]:
        raise StopTest


@pytest.mark.parametrize("number", [0, 1])
def test_reward_functions_are_tried_on_rank_0_only(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    start_rank: Callable[[int, int], None],
    number: int,
) -> None:
    tried = []
    options = build(
        stages.RlhfOptions,
        policy__rewards=[{"function": "not used"}],
        policy__algorithm="grpo",
        reward__skip=True,
    )
    job = rank_cases.Case(tmp_path, tmp_path).job(options, rank_cases.PAIRS)
    monkeypatch.setattr(stages, "check_reward_functions", lambda *args: tried.append(args))
    start_rank(number, 2)
    with pytest.raises(StopTest), distributed.join_group(StoppedGroup(number, 2)):
        stages.train_stages(job)
    assert len(tried) == (number == 0)


def test_shares_are_even_and_complete() -> None:
    def shares_of(sizes: list[int], count: int) -> list[list[int]]:
        found = []
        for number in range(count):
            with distributed.join_group(ProcessGroup(number, count)):
                found.append(distributed.list_rank_items(sizes))
        return found

    assert shares_of([5, 5, 5, 5, 5], 2) == [[0, 2, 4], [1, 3]]
    assert shares_of([7], 3) == [[0], [], []]
    for count in (1, 2, 3, 7):
        sizes = [1 + n * n % 13 for n in range(20)]
        shares = shares_of(sizes, count)
        assert sorted(index for share in shares for index in share) == list(range(20))
        loads = [sum(sizes[index] for index in share) for share in shares]
        assert max(loads) - min(loads) <= max(sizes)
    assert distributed.list_rank_items([3, 1, 2]) == [0, 1, 2]
