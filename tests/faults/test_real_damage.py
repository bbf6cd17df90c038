"""Damaged checkpoints, full and read-only disks, and two processes, in real training."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.storage import Checkpoints, verify_folder
from tunesmith.storage.atomic import Disk
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime.seed import seed_all
from tunesmith_torch.training import trainer, training_state

pytestmark = pytest.mark.processes

FILES = ("MANIFEST.json", "generators.json", "training.safetensors")


def _delete(path: Path, other: Path) -> None:
    path.unlink()


def _truncate(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path, other: Path) -> None:
    os.truncate(path, 0)


def _flip(path: Path, other: Path) -> None:
    flip(path, random.Random(path.name).randrange(path.stat().st_size * 8))


def _zero(path: Path, other: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


DAMAGE = {
    "deleted": _delete,
    "truncated": _truncate,
    "emptied": _empty,
    "one bit flipped": _flip,
    "filled with zeros": _zero,
    "of another step": _swap,
}


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


# Python's and NumPy's generators are not used, so that file is the same at every step.
DAMAGED = [(f, d) for f in FILES for d in DAMAGE if (f, d) != (FILES[1], "of another step")]


@pytest.mark.parametrize(("file", "damage"), DAMAGED)
def test_a_damaged_checkpoint_is_reported_and_the_older_one_used(
    faults: Any, real: Any, workshop: Any, file: str, damage: str
) -> None:
    setting = real.Setting()
    complete = real.collect_results(workshop.complete_run(setting))
    run = workshop.copy(workshop.interrupted_run(setting))
    old, new = (run / "checkpoints" / f"step-{step:08d}" for step in (2, 4))
    DAMAGE[damage](new / file, old / file)
    found = real.run_command("verify", run)
    assert found.code == 7, found.output
    assert f"step-00000004: {file}:" in found.output
    resumed = real.run_command("resume", run)
    assert resumed.code == 0, resumed.output
    messages = [e["message"] for e in real.events(run, "finding") if e["source"] == "checkpoints"]
    assert len(messages) == 1
    assert "checkpoint is damaged" in messages[0]
    assert f"{file}: " in messages[0]
    assert (run / "checkpoints" / ".bad-step-00000004").is_dir()
    assert real.events(run, "training-started")[-1]["first_step"] == 2
    assert real.collect_results(run) == complete
    faults.count_trials("damaged checkpoint found, reported, and the older one used")


def test_if_all_checkpoints_are_damaged_each_is_reported(
    faults: Any, real: Any, workshop: Any
) -> None:
    setting = real.Setting()
    run = workshop.copy(workshop.interrupted_run(setting))
    for step in (2, 4):
        _flip(run / "checkpoints" / f"step-{step:08d}" / FILES[2], Path())
    assert real.run_command("resume", run).code == 0
    messages = [e["message"] for e in real.events(run, "finding") if e["source"] == "checkpoints"]
    assert ["step-00000004" in text or "step-00000002" in text for text in messages] == [True, True]
    assert real.collect_results(run) == real.collect_results(workshop.complete_run(setting))
    faults.count_trials("all checkpoints damaged: each reported, training restarted")


PARTS = ["master", "exp_avg", "exp_avg_sq", "step", "generator.torch", "python", "numpy"]


@pytest.mark.parametrize("part", PARTS)
def test_a_state_that_lacks_a_part_is_an_error(
    faults: Any, real: Any, workshop: Any, part: str
) -> None:
    """Its manifest is valid, but a resume without this part would silently restart it."""
    run = workshop.copy(workshop.interrupted_run(real.Setting()))
    checkpoints = Checkpoints(run / "checkpoints")
    state = checkpoints.folder / "step-00000004"
    tensors = load_file(state / FILES[2])
    generators = json.loads((state / FILES[1]).read_text())
    if part in generators:
        del generators[part]
    else:
        del tensors[next(name for name in tensors if name == part or name.startswith(f"{part}."))]

    def write(folder: Path) -> None:
        save_file(tensors, folder / FILES[2])
        (folder / FILES[1]).write_text(json.dumps(generators))

    checkpoints.save(4, write)
    end = real.run_command("resume", run)
    assert end.code == 7, end.output
    assert "the training state is incomplete" in end.output
    assert part in end.output
    steps = [event["step"] for event in real.events(run, "step-finished")]
    assert steps == [1, 2, 3, 4]
    faults.count_trials("training state without one of its parts refused")


def test_the_states_of_all_random_generators_are_restored(
    faults: Any, real: Any, tmp_path: Path
) -> None:
    """Python's and NumPy's generators are not used here, but a plugin's objective may use them."""
    masters = MasterWeights([("w", torch.nn.Parameter(torch.zeros(1)))], TrainingOptions())
    seed_all(5)
    training_state.save_training_state(tmp_path, masters)
    expected = random.random(), float(numpy.random.rand()), float(torch.rand(()))
    seed_all(6)
    training_state.restore_training_state(tmp_path, masters)
    assert (random.random(), float(numpy.random.rand()), float(torch.rand(()))) == expected
    faults.count_trials("generators of Python, NumPy and torch restored")


@pytest.mark.parametrize(
    "flips", [2, pytest.param(50, marks=pytest.mark.faults)], ids=["short", "long"]
)
@pytest.mark.parametrize("technique", ["lora", "full"])
def test_verify_finds_one_flipped_bit(
    faults: Any, real: Any, workshop: Any, technique: str, flips: int
) -> None:
    """In every committed file: checkpoints, artifact, manifests."""
    run = workshop.copy(workshop.complete_run(real.Setting(technique)))
    assert real.run_command("verify", run).code == 0
    rng = random.Random(flips)
    folders = {path.parent for path in run.rglob(FILES[0])}
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 13
    for path in files:
        for _ in range(flips):
            bit = rng.randrange(path.stat().st_size * 8)
            flip(path, bit)
            problems = verify_folder(path.parent)
            assert [problem.file for problem in problems] == [path.name]
            flip(path, bit)
            faults.count_trials("one flipped bit found by verify")
    for path in (files[0], files[-1]):
        flip(path, 1)
        end = real.run_command("verify", run, "--json")
        assert end.code == 7, end.output
        assert path.name in end.output
        flip(path, 1)
    assert real.run_command("verify", run).code == 0


# --- disks -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes in memory."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounting = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, left: int) -> None:
    """Fill the disk up to ``left`` free bytes, rounded to pages."""
    free = shutil.disk_usage(folder).free
    with (folder / "filler").open("ab") as file:
        file.write(bytes(max(0, free - left)))


@pytest.mark.parametrize("percent", [10, 30, 50, 70, 90])
def test_a_disk_that_fills_up_in_a_save(
    faults: Any, real: Any, workshop: Any, small_disk: Path, percent: int
) -> None:
    setting = real.Setting()
    complete = real.collect_results(workshop.complete_run(setting))
    run = small_disk / "run"
    shutil.copytree(workshop.interrupted_run(setting), run)
    size = sum(path.stat().st_size for path in (run / "checkpoints/step-00000004").iterdir())
    full = real.before_call(
        training_state, "save_training_state", 1, lambda: fill(small_disk, size * percent // 100)
    )
    end = real.run_command("resume", run, prepare=full)
    assert end.code == 4, end.output
    assert "the disk is full" in end.output
    assert "free, at least" in end.output
    newest = Checkpoints(run / "checkpoints").newest(recover=False)
    assert newest is not None
    assert newest.step == 4
    assert verify_folder(newest.path) == []
    (small_disk / "filler").unlink()
    resumed = real.run_command("resume", run)
    assert resumed.code == 0, resumed.output
    assert real.collect_results(run) == complete
    faults.count_trials("real disk full in the middle of a save")


def test_space_is_checked_before_the_first_step(
    faults: Any, real: Any, workshop: Any, small_disk: Path
) -> None:
    fill(small_disk, 300_000)
    end = real.run_command("run", workshop.run_file(real.Setting()), "--out", small_disk / "run")
    assert end.code == 4, end.output
    assert "not enough disk space" in end.output
    assert "KiB needed" in end.output
    assert "KiB free" in end.output
    assert real.events(small_disk / "run", "step-finished") == []
    faults.count_trials("too little space reported before the first step")


def test_a_read_only_disk_is_reported_before_a_model_is_loaded(
    faults: Any, real: Any, workshop: Any, small_disk: Path
) -> None:
    run = small_disk / "run"
    shutil.copytree(workshop.interrupted_run(real.Setting()), run)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    def never() -> None:
        raise AssertionError("a model is loaded")

    loads = real.before_call(trainer, "load_model", 1, never)
    for args in (
        ("resume", run),
        ("run", workshop.run_file(real.Setting()), "--out", small_disk / "new"),
    ):
        end = real.run_command(*args, prepare=loads)
        assert end.code == 4, end.output
        assert "read-only" in end.output
        faults.count_trials("read-only disk reported before a model is loaded")
    shown = real.run_command("report", run, "--json")
    assert shown.code == 0, shown.output


def fails_from(number: int, code: int) -> Callable[[], None]:
    """Return a function that makes every write fail from the n-th on."""
    from real_runs import before_disk_calls

    def prepare() -> None:
        calls = 0

        def tick(name: str) -> None:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise OSError(code, os.strerror(code))

        before_disk_calls(tick, ["write"])

    return prepare


@pytest.mark.parametrize(
    "every", [9, pytest.param(1, marks=pytest.mark.faults)], ids=["short", "long"]
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_from_the_nth_write(
    faults: Any, real: Any, workshop: Any, code: int, every: int
) -> None:
    """In a complete run, with log, checkpoints, artifact and report; every ninth write if short."""
    assert hasattr(Disk, "write")
    setting = real.Setting(save_every=4, epochs=2)
    file = workshop.run_file(setting)
    complete = real.collect_results(workshop.complete_run(setting))
    number, trials = 1 + code % every, 0
    while True:
        run = workshop.folder / "failing" / "run"
        shutil.rmtree(run, ignore_errors=True)
        end = real.run_command("run", file, "--out", run, prepare=fails_from(number, code))
        if end.code == 0:
            break
        assert end.code == 4, end.output
        assert ("the disk is full" if code == errno.ENOSPC else "reported an error") in end.output
        for step in Checkpoints(run / "checkpoints").steps():
            assert verify_folder(run / f"checkpoints/step-{step:08d}") == []
        if (run / "run.toml").exists():
            resumed = real.run_command("resume", run)
            assert resumed.code == 0 or "the run is finished" in resumed.output, resumed.output
            assert real.collect_results(run) == complete
        trials += 1
        number += every
    assert trials * every > 20
    faults.count_trials("disk fails from the n-th write, in a complete run", trials)


# --- two processes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "races", [3, pytest.param(40, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_two_processes_resume_one_run(faults: Any, real: Any, workshop: Any, races: int) -> None:
    setting = real.Setting()
    complete = real.collect_results(workshop.complete_run(setting))
    for _ in range(races):
        run = workshop.copy(workshop.interrupted_run(setting))
        both = [real.start_command("resume", run), real.start_command("resume", run)]
        ends = [child.end() for child in both]
        assert sorted(end.code for end in ends) == [0, 2], ends
        loser = next(end for end in ends if end.code == 2)
        winner = next(c.pid for c, end in zip(both, ends, strict=True) if end.code == 0)
        assert f"run is in use by pid {winner}" in loser.output or "is finished" in loser.output
        assert real.collect_results(run) == complete
        faults.count_trials("two processes on one run: exactly one wins")


def test_a_second_process_is_refused_within_a_second(faults: Any, real: Any, workshop: Any) -> None:
    run = workshop.copy(workshop.interrupted_run(real.Setting()))
    waits = real.before_call(training_state, "save_training_state", 1, lambda: time.sleep(30))
    first = real.start_command("resume", run, prepare=waits)
    while not real.events(run, "training-started")[1:]:
        assert first.running(), first.end().output
        time.sleep(0.01)
    durations = []
    for _ in range(3):  # a machine may be busy with something else once
        started = time.monotonic()
        second = real.run_command("resume", run)
        durations.append(time.monotonic() - started)
        assert second.code == 2
        assert f"run is in use by pid {first.pid}" in second.output
    assert min(durations) < 1.0
    first.signal(9)
    first.end()
    assert real.run_command("resume", run).code == 0
    faults.count_trials("lock refused within a second, free after kill -9")
