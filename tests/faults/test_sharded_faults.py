"""Runs with sharded weights: checkpoints of all ranks, resumed by any number; no fault hangs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torchrun
from safetensors import safe_open

from tunesmith.storage import Checkpoints, lock, read_events, verify_folder
from tunesmith_torch.runtime.distributed import ProcessGroup
from tunesmith_torch.training import checkpoint_writer, loop, stored_tensors
from tunesmith_torch.training.supervised import NextTokenObjective

pytestmark = pytest.mark.processes

SETTING = {"technique": "full", "micro_batch_tokens": 120, "epochs": 2}
SHARDED = ("--set", "technique.parallel=sharded")
COUNTED = ("step", "rows", "tokens", "trained_tokens", "learning_rate", "epoch")
"""Fields of a step that must be exactly those of a single process."""


@pytest.fixture(scope="session")
def setting(real: Any) -> Any:
    return real.Setting(**SETTING)


@pytest.fixture(scope="session")
def complete_run(workshop: Any, setting: Any) -> Path:
    """An uninterrupted run of two ranks."""
    out = new_run_folder(workshop, "complete")
    done = torchrun.run_command("run", workshop.run_file(setting), "--out", out, *SHARDED)
    assert done.codes == [0, 0], done.output
    return out


@pytest.fixture(scope="session")
def interrupted_run(real: Any, workshop: Any, setting: Any) -> Path:
    """A run of two ranks that was killed right after its second checkpoint, at step 4."""
    out, file = new_run_folder(workshop, "interrupted"), workshop.run_file(setting)
    kill = torchrun.on_rank(0, real.kill_after_save(2))
    done = torchrun.run_command("run", file, "--out", out, *SHARDED, prepare=kill)
    assert done.codes[0] == real.KILLED, done.output
    assert Checkpoints(out / "checkpoints").steps() == [2, 4]
    return out


def new_run_folder(workshop: Any, name: str) -> Path:
    run: Path = workshop.folder / f"sharded-{name}" / "run"
    shutil.rmtree(run, ignore_errors=True)
    return run


def newest_step(run: Path) -> int:
    newest = Checkpoints(run / "checkpoints").newest(recover=False)
    assert newest is not None and verify_folder(newest.path) == []
    return newest.step


def assert_steps_of(real: Any, run: Path, single: Path) -> None:
    """Check that the run has trained on the tokens of a single process, with its losses."""
    steps = {event["step"]: event for event in real.events(run, "step-finished")}
    expected = real.events(single, "step-finished")
    assert sorted(steps) == [event["step"] for event in expected]
    for event in expected:
        found = steps[event["step"]]
        assert [found[key] for key in COUNTED] == [event[key] for key in COUNTED]
        assert found["loss"] == pytest.approx(event["loss"], rel=1e-6)


def test_a_run_goes_from_two_ranks_to_one_to_four(
    faults: Any, real: Any, workshop: Any, setting: Any
) -> None:
    """Each part is killed in a step; the next one reads what ranks of another number wrote."""
    single, run = workshop.complete_run(setting), new_run_folder(workshop, "two-one-four")

    def killed(call: int) -> Any:
        die = real.before_call(loop._GradientAccumulator, "_accumulate", call, faults.die)
        return torchrun.on_rank(0, die)

    file = workshop.run_file(setting)
    two = torchrun.run_command("run", file, "--out", run, *SHARDED, prepare=killed(4))
    assert two.codes[0] == real.KILLED, two.output
    assert newest_step(run) == 2
    files = sorted((run / "checkpoints" / "step-00000002").glob("training-*.safetensors"))
    assert [path.name for path in files] == [
        "training-00001-of-00002.safetensors",
        "training-00002-of-00002.safetensors",
    ]
    sizes = [path.stat().st_size for path in files]
    whole = min(p.stat().st_size for p in single.glob("checkpoints/*/training.safetensors"))
    assert max(sizes) < 0.6 * whole and sum(sizes) < 1.1 * whole
    one = torchrun.run_command("resume", run, prepare=killed(4), count=1)
    assert one.codes == [real.KILLED], one.output
    assert newest_step(run) == 4
    four = torchrun.run_command("resume", run, count=4)
    assert four.codes == [0] * 4, four.output
    assert_steps_of(real, run, single)
    with (
        safe_open(run / "model" / "model.safetensors", "pt") as ours,
        safe_open(single / "model" / "model.safetensors", "pt") as other,
    ):
        assert {*ours.keys()} == {*other.keys()}
        for name in ours.keys():  # noqa: SIM118 - no dictionary
            difference = (ours.get_tensor(name) - other.get_tensor(name)).abs().max()
            assert float(difference) < 1e-4, name


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_rank_killed_while_it_writes_its_part(
    faults: Any, real: Any, workshop: Any, setting: Any, rank: int, where: str
) -> None:
    """The checkpoint is valid or not there; the one before it is used."""
    run = new_run_folder(workshop, f"killed-{rank}-{where}")
    owner, name = {
        "before": (stored_tensors, "save_file"),
        "after": (checkpoint_writer.distributed, "all_gather_object"),
    }[where]
    file = workshop.run_file(setting)

    def prepare() -> None:
        if where == "before":
            real.before_call(owner, name, 2, faults.die)()
            return
        write = checkpoint_writer.CheckpointWriter._write
        calls = 0

        def counted(self: Any, folder: Path | None) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                real.before_call(owner, name, 2, faults.die)()  # the barrier after the write
            write(self, folder)

        checkpoint_writer.CheckpointWriter._write = counted  # type: ignore[method-assign]

    kill = torchrun.on_rank(rank, prepare)
    done = torchrun.run_command("run", file, "--out", run, *SHARDED, prepare=kill)
    assert done.codes[rank] == real.KILLED, done.output
    assert newest_step(run) == 2


def kill_during_save(real: Any, number: int) -> Callable[[], None]:
    """Return a function that kills this rank before the n-th call of its next save.

    A call is one of the disk, of the library that writes the weights, or an exchange of the ranks.
    If the save has fewer calls, the process exits with code 0 after it.
    """
    kill = real.KillAtCall(number)

    def prepare() -> None:
        real.before_disk_calls(kill.tick)
        real_save, real_file = checkpoint_writer.CheckpointWriter.save, stored_tensors.save_file
        real_exchange = ProcessGroup.exchange

        def save(self: Any, *args: Any, **kwargs: Any) -> None:
            kill.armed = True
            real_save(self, *args, **kwargs)
            os._exit(0)

        def save_file(tensors: Any, path: Path, metadata: Any = None) -> None:
            kill.tick()
            real_file(tensors, path, metadata)
            for part in (0, 2):  # the kill comes next: the file is empty, or half of it is there
                if kill.is_next:
                    os.truncate(path, path.stat().st_size // part if part else 0)
                kill.tick()

        def exchange(self: Any, message: Any) -> Any:
            kill.tick()
            return real_exchange(self, message)

        checkpoint_writer.CheckpointWriter.save = save  # type: ignore[method-assign]
        stored_tensors.save_file = save_file  # type: ignore[attr-defined]
        ProcessGroup.exchange = exchange  # type: ignore[method-assign]

    return prepare


def describe_state(real: Any, run: Path) -> str:
    """Return all that a run resumes from: its files, and its events without their times."""
    with lock(run):  # as `resume` does first: it removes and repairs what a crash has left
        pass
    assert not [path.name for path in run.rglob(".*")]
    files = {name: digest for name, digest in real.digests(run).items() if name != "events.jsonl"}
    kinds = [(event["event"], event.get("step")) for event in read_events(run / "events.jsonl")]
    return repr((files, kinds))


def kill_and_resume(
    faults: Any,
    real: Any,
    workshop: Any,
    interrupted: Path,
    complete: Path,
    rank: int,
    number: int,
    resumed_states: set[str],
) -> int:
    """Kill a rank before a call of a save; check what is left, and that it resumes to the end.

    A state that was left and resumed before is not resumed again: that would end in the same way.

    Returns:
        The step of the checkpoint that was left, or 0 if the save has fewer calls.
    """
    run = workshop.copy(interrupted, f"sharded-trial-{rank}")
    kill = torchrun.on_rank(rank, kill_during_save(real, number))
    end = torchrun.run_command("resume", run, prepare=kill)
    problems: list[str] = []
    newest = Checkpoints(run / "checkpoints", on_problem=problems.append).newest(recover=False)
    assert newest is not None and problems == []
    assert verify_folder(newest.path) == []
    assert newest.step in (4, 6)
    if end.codes[rank] == 0:
        return 0
    assert end.codes[rank] == real.KILLED, end.output
    faults.count_trials(f"rank {rank} killed in a sharded save: a valid checkpoint is there")
    if (state := describe_state(real, run)) in resumed_states:
        return int(newest.step)
    resumed_states.add(state)
    resumed = torchrun.run_command("resume", run)
    assert resumed.codes == [0, 0], resumed.output
    assert real.collect_results(run) == real.collect_results(complete)
    assert not [path.name for path in run.rglob(".*")]
    faults.count_trials(f"rank {rank} killed in a sharded save: what is left resumes to the end")
    return int(newest.step)


@pytest.mark.parametrize(("rank", "number", "left"), [(0, 30, 4), (1, 3, 4)])
def test_a_rank_killed_in_a_save(
    faults: Any,
    real: Any,
    workshop: Any,
    interrupted_run: Path,
    complete_run: Path,
    rank: int,
    number: int,
    left: int,
) -> None:
    arguments = (interrupted_run, complete_run, rank, number, set[str]())
    assert kill_and_resume(faults, real, workshop, *arguments) == left


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("rank", "least", "left"), [(0, 50, {0, 4, 6}), (1, 7, {0, 4})])
def test_a_rank_killed_at_every_call_of_a_save(
    faults: Any,
    real: Any,
    workshop: Any,
    interrupted_run: Path,
    complete_run: Path,
    rank: int,
    least: int,
    left: set[int],
) -> None:
    """There is a valid checkpoint at all times, and the resumed run has identical results."""
    found: list[int] = []
    resumed = set[str]()
    while 0 not in found:
        arguments = (interrupted_run, complete_run, rank, len(found) + 1, resumed)
        found.append(kill_and_resume(faults, real, workshop, *arguments))
    assert set(found) == left
    assert len(found) > least
    assert len(resumed) >= len(left - {0})


def test_an_error_of_one_rank_in_a_step_ends_both(real: Any, workshop: Any, setting: Any) -> None:
    """The other one is inside an operation of FSDP then; it reports the error of the first."""

    def fail() -> None:
        raise KeyError("where")

    run = new_run_folder(workshop, "bug")
    bug = torchrun.on_rank(1, real.before_call(NextTokenObjective, "loss", 7, fail))
    file = workshop.run_file(setting)
    done = torchrun.run_command("run", file, "--out", run, *SHARDED, prepare=bug)
    assert done.codes[0] != 0
    assert "rank 1: KeyError: 'where'" in done.output[0], done.output
    assert done.codes[1] != 0
