"""Runs with sharded weights: checkpoints of all ranks, resumed by any number; no fault hangs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torchrun
from safetensors import safe_open

from tunesmith.storage import Checkpoints, verify_folder
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


def new_run_folder(workshop: Any, name: str) -> Path:
    run: Path = workshop.folder / f"sharded-{name}" / "run"
    shutil.rmtree(run, ignore_errors=True)
    return run


def newest_step(run: Path) -> int:
    newest = Checkpoints(run / "checkpoints").newest(repair=False)
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
