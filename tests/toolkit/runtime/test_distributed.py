"""Two ranks do what a process alone does, and end together whatever happens to one of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rank_cases
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed import HashStore
from torch.distributed.distributed_c10d import PrefixStore
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith.errors import EnvironmentProblem, RunStopped, UsageError
from tunesmith_torch.rlhf import stages
from tunesmith_torch.runtime import device, distributed
from tunesmith_torch.testing.tiny_model import save_tiny_model

RANKS = 2


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two ranks have carried out all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    save_tiny_model(folder / "model")
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}"]
    names = [*rank_cases.EQUAL, *rank_cases.FAULTS]
    done = subprocess.run(
        [*torchrun, rank_cases.__file__, str(folder), *names],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def ends(place: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((place / name / f"rank-{n}.json").read_text()) for n in range(RANKS)]


def told(place: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((place / name / "told.json").read_text())
    return found


def same(one: Any, two: Any, where: str) -> None:
    """The same but for rounding, number by number."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, float):
        assert one == pytest.approx(two, rel=2e-5, abs=2e-6), where
    else:
        assert one == two, where


@pytest.mark.parametrize("name", rank_cases.EQUAL)
def test_ranks_come_to_what_a_process_alone_comes_to(
    place: Path, tmp_path: Path, name: str
) -> None:
    """Losses, norms, counts, figures and looks of every step; and all weights in the end."""
    rank_cases.carry_out([name], tmp_path, place / "model")
    (alone,) = [json.loads((tmp_path / name / "rank-0.json").read_text())]
    assert alone["ended"] == ""
    assert [end["ended"] for end in ends(place, name)] == [""] * RANKS
    theirs, ours = told(place, name), told(tmp_path, name)
    assert len(theirs) == len(ours) > 1
    for number, (one, two) in enumerate(zip(theirs, ours, strict=True)):
        same(one, two, str(number))
    weights = load_file(tmp_path / name / "weights")
    for key, tensor in load_file(place / name / "weights").items():
        torch.testing.assert_close(tensor, weights[key], rtol=2e-5, atol=2e-5, msg=key)


@pytest.mark.parametrize("name", [*rank_cases.EQUAL, "memory"])
def test_all_ranks_have_the_same_bits(place: Path, name: str) -> None:
    one, *others = ends(place, name)
    assert all(other["digest"] == one["digest"] for other in others)


def test_memory_that_runs_out_on_one_rank_changes_nothing(place: Path) -> None:
    """It halves its own micro-batches, and all compute the batch again."""
    assert [end["ended"] for end in ends(place, "memory")] == [""] * RANKS
    for one, two in zip(told(place, "memory"), told(place, "full"), strict=True):
        same(one, two, "memory")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("not a number", "TrainingError: step 2: the loss is not finite"),
        ("a bug", "TrainingError: rank 1: KeyError: 'where'"),
        ("no room", "TrainingError: rank 1: OutOfMemoryError"),
        ("other weights", "TrainingError: rank 1: the weights differ from those of rank 0"),
    ],
)
def test_what_goes_wrong_on_one_rank_ends_all_with_one_error(
    place: Path, name: str, said: str
) -> None:
    first, *others = ends(place, name)
    assert first["ended"].startswith(said)
    assert [end["ended"].partition(":")[0] for end in others] == ["Dismissed"] * len(others)


def test_a_post_mortem_is_written_once(place: Path) -> None:
    found = json.loads((place / "not a number" / "run" / "postmortem.json").read_text())
    assert found["step"] == 2
    assert "nan" in found["losses"]
    assert len(found["rows"]) == 4


class Watcher(TorchDispatchMode):
    """Which storages came up, and what was said, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(tensor, Tensor) and tensor.numel():
                self.log.append(tensor.untyped_storage().data_ptr())
        return found


def test_nothing_is_allocated_once_all_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """It could fail on one rank, while the others are in a sum that nothing ends."""
    watcher = Watcher()

    def exchange(team: Any, message: Any) -> list[Any]:
        watcher.log.append("exchange")
        return [message["value"]] * team.count

    def all_reduce(tensor: Tensor, **group: Any) -> None:
        watcher.log.append("all_reduce")
        tensor.mul_(2)

    monkeypatch.setattr(distributed, "_team", distributed._Team(0, 2))
    monkeypatch.setattr(distributed, "_exchange", exchange)
    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(distributed, "BUCKET", 10)
    parameters = [torch.nn.Parameter(torch.ones(n)) for n in (3, 4, 5, 30)]
    parameters.append(torch.nn.Parameter(torch.ones(3, 2, dtype=torch.float64)))
    parameters.append(torch.nn.Parameter(torch.ones(4, 2)))
    for number, parameter in enumerate(parameters[1:]):
        parameter.grad = torch.full_like(parameter, number)
    parameters[-1].grad = torch.full((2, 4), 4.0).t()
    known = {p.grad.untyped_storage().data_ptr() for p in parameters if p.grad is not None}
    with watcher:
        distributed.sum_gradients(parameters)
    last = len(watcher.log) - 1 - watcher.log[::-1].index("exchange")
    assert watcher.log[last:].count("all_reduce") == watcher.log.count("all_reduce") > 3
    before = known | {entry for entry in watcher.log[:last] if isinstance(entry, int)}
    after = {entry for entry in watcher.log[last:] if isinstance(entry, int)}
    assert after <= before
    assert parameters[0].grad is None
    for number, parameter in enumerate(parameters[1:]):
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 2 * number))


def test_waiting_for_others_heeds_a_signal() -> None:
    store = PrefixStore("test", HashStore())
    told = []

    def emit(event: Any) -> None:
        told.append(event)
        if len(told) == 3:
            raise RunStopped("stopped by SIGTERM", exit_code=143)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "LOOK", 0.0)
        patch.setattr("tunesmith.distributed.count", lambda: 3)
        patch.setattr("tunesmith.distributed.number", lambda: 0)
        store.set("here-2", "")
        with pytest.raises(RunStopped):
            distributed._wait_for_all(store, emit)
        patch.setattr("tunesmith.distributed.number", lambda: 1)
        distributed._wait_for_all(store, emit)
        patch.setattr("tunesmith.distributed.number", lambda: 0)
        distributed._wait_for_all(store, emit)
    assert len(told) == 3


def test_more_ranks_than_gpus_are_refused_on_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.distributed.count", lambda: 2)
    monkeypatch.setattr("tunesmith.distributed.local", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(EnvironmentProblem, match="2 ranks need a GPU each, and there are 1"):
        device.pick_device("auto")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device.pick_device("auto") == torch.device("cuda:0")


def test_on_a_mac_the_way_out_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.distributed.count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(UsageError) as caught:
        device.pick_device("auto")
    assert caught.value.hint == "use cpu"


class Enough(Exception):
    """The test has seen what it wanted to."""


@pytest.mark.parametrize("number", [0, 1])
def test_reward_functions_are_tried_on_rank_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    tried = []

    def exchange(team: Any, message: Any) -> list[Any]:
        raise Enough

    options = stages.RlhfOptions(
        policy={"rewards": [{"function": "not used"}], "algorithm": "grpo"}, reward={"skip": True}
    )
    job = rank_cases.Case(tmp_path, tmp_path).job(options, rank_cases.PAIRS)
    monkeypatch.setattr(stages, "try_functions", lambda *args: tried.append(args))
    monkeypatch.setattr("tunesmith.distributed.count", lambda: 2)
    monkeypatch.setattr(distributed, "_team", distributed._Team(number, 2))
    monkeypatch.setattr(distributed, "_exchange", exchange)
    with pytest.raises(Enough):
        stages.train_stages(job)
    assert len(tried) == (number == 0)


def test_shares_are_even_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def dealt(sizes: list[int], count: int) -> list[list[int]]:
        found = []
        for number in range(count):
            monkeypatch.setattr(distributed, "_team", distributed._Team(number, count))
            found.append(distributed.deal(sizes))
        monkeypatch.setattr(distributed, "_team", None)
        return found

    assert dealt([5, 5, 5, 5, 5], 2) == [[0, 2, 4], [1, 3]]
    assert dealt([7], 3) == [[0], [], []]
    for count in (1, 2, 3, 7):
        sizes = [1 + n * n % 13 for n in range(20)]
        shares = dealt(sizes, count)
        assert sorted(place for share in shares for place in share) == list(range(20))
        loads = [sum(sizes[place] for place in share) for share in shares]
        assert max(loads) - min(loads) <= max(sizes)
    assert distributed.deal([3, 1, 2]) == [0, 1, 2]
