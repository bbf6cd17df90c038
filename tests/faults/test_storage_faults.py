"""Kills, power cuts, full and failing disks at every single call of the write path.

In all cases a valid checkpoint remains, the one before or the one that was being saved; it
is found without a reported problem, and the next save works.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.storage import (
    Checkpoint,
    Checkpoints,
    Disk,
    EventLog,
    commit_folder,
    lock,
    read_events,
    verify_folder,
    write_atomic,
)

SIZES = {"model.safetensors": 50_000, "rng/cpu.bin": 5_000, "state.json": 100}


def writer(tag: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, size in SIZES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(tag.encode() * size)

    return write


@dataclass(frozen=True)
class Save:
    """One save on top of checkpoints 10 (the best) and 20, with one newest kept."""

    step: int
    best: bool
    bests: frozenset[int]

    def __call__(self, folder: Path, disk: Disk, problems: list[str] | None = None) -> None:
        on_problem = (lambda line: None) if problems is None else problems.append
        Checkpoints(folder, keep=1, disk=disk, on_problem=on_problem).save(
            self.step, writer("b"), meta={"version": "new"}, best=self.best
        )


SAVES = {
    "next": Save(30, False, frozenset({10})),
    "next and best": Save(30, True, frozenset({10, 30})),
    "same again": Save(20, False, frozenset({10})),
    "same best again": Save(10, True, frozenset({10})),
}
every_save = pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)


@pytest.fixture(scope="module")
def before(memory: Path) -> Path:
    """A run folder with two checkpoints, to be copied for each fault."""
    run = memory / "before"
    run.mkdir()
    checkpoints = Checkpoints(run / "checkpoints", keep=1)
    checkpoints.save(10, writer("a"), meta={"version": "old"}, best=True)
    checkpoints.save(20, writer("a"), meta={"version": "old"})
    return run


def fresh(before: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(before, target)
    return target


def debris(run: Path) -> list[str]:
    return [path.name for path in run.rglob(".*")]


def content(checkpoint: Checkpoint | None) -> str:
    assert checkpoint is not None
    letters = {chr((checkpoint.path / name).read_bytes()[0]) for name in SIZES}
    assert letters == {"b" if checkpoint.meta["version"] == "new" else "a"}
    return str(checkpoint.meta["version"])


def check_after_crash(run: Path, save: Save, *, committed: bool = False) -> str:
    """The promise, and then a holder of the lock who cleans up and saves again."""
    problems: list[str] = []
    checkpoints = Checkpoints(run / "checkpoints", keep=1, on_problem=problems.append)
    found = checkpoints.newest()
    version = content(found)
    assert found is not None
    assert found.step in ({save.step, 20} if save.step > 20 else {20})
    best = checkpoints.best()
    assert best is not None
    assert best.step in save.bests
    if committed:
        assert content(found if save.step >= 20 else best) == "new"
    assert problems == []
    with lock(run):
        assert debris(run) == []
        save(run / "checkpoints", Disk(), problems)
    assert content(checkpoints.newest() if save.step >= 20 else checkpoints.best()) == "new"
    assert problems == []
    assert debris(run) == []
    return version


# --- (a) death at every call -----------------------------------------------------------------


@pytest.mark.processes
@every_save
def test_kill_at_every_call_of_a_save(
    faults: Any, before: Path, tmp_path: Path, save: Save
) -> None:
    versions = set()
    for number in itertools.count(1):
        run = fresh(before, tmp_path / "run")
        disk = faults.FaultyDisk(faults.die, number)
        code = faults.in_child(lambda run=run, disk=disk: save(run / "checkpoints", disk))
        assert code in (0, faults.KILLED)
        versions.add(check_after_crash(run, save, committed=code == 0))
        if code == 0:
            break
    assert number > 40
    assert versions == ({"old"} if save.step < 20 else {"old", "new"})


@pytest.mark.processes
@every_save
@pytest.mark.parametrize("undo", [False, True], ids=["renames kept", "renames lost"])
def test_power_cut_at_every_call_of_a_save(
    faults: Any, before: Path, tmp_path: Path, save: Save, undo: bool
) -> None:
    for number in itertools.count(1):
        run = fresh(before, tmp_path / "run")

        def work(run: Path = run, number: int = number) -> None:
            disk = faults.PowerCut(run, number, undo=undo)
            save(run / "checkpoints", disk)
            if disk.count < number:
                (run / "returned").touch()
                disk.cut()

        assert faults.in_child(work) == faults.KILLED
        returned = (run / "returned").exists()
        checkpoints = Checkpoints(run / "checkpoints", on_problem=lambda line: None)
        version = content(checkpoints.newest())
        assert checkpoints.best() is not None
        if returned:
            assert save.step < 20 or version == "new"
            break
    assert number > 40


@pytest.mark.processes
@pytest.mark.parametrize("undo", [None, False, True], ids=["kill", "renames kept", "renames lost"])
def test_kill_and_power_cut_at_every_call_of_write_atomic(
    faults: Any, tmp_path: Path, undo: bool | None
) -> None:
    path = tmp_path / "run" / "report.json"
    path.parent.mkdir()
    seen = []
    for number in itertools.count(1):
        write_atomic(path, "old" * 1000)

        def work(number: int = number) -> None:
            disk = faults.FaultyDisk(faults.die, number)
            if undo is not None:
                disk = faults.PowerCut(path.parent, number, undo=undo)
            write_atomic(path, "new" * 2000, disk=disk)
            if disk.count < number:
                (path.parent / "returned").touch()
                faults.die() if undo is None else disk.cut()

        assert faults.in_child(work) == faults.KILLED
        text = path.read_text()
        assert text in ("old" * 1000, "new" * 2000)
        seen.append(text[:3])
        with lock(path.parent):
            assert debris(path.parent) == []
        if (path.parent / "returned").exists():
            break
    assert seen[0] == "old"
    assert seen[-1] == "new"
    assert len(seen) > 7


@pytest.mark.processes
def test_kill_at_every_call_of_an_artifact_commit(faults: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    commit_folder(base / "artifact", writer("a"), {"version": "old"})
    for number in itertools.count(1):
        run = fresh(base, tmp_path / "run")
        disk = faults.FaultyDisk(faults.die, number)

        def work(run: Path = run, disk: Disk = disk) -> None:
            commit_folder(run / "artifact", writer("b"), {"version": "new"}, disk=disk)

        code = faults.in_child(work)
        with lock(run):
            assert verify_folder(run / "artifact") == []
            assert debris(run) == []
        if code == 0:
            break


@pytest.mark.processes
def test_kill_at_every_call_while_quarantining_a_checkpoint(
    faults: Any, before: Path, tmp_path: Path
) -> None:
    for number in itertools.count(1):
        run = fresh(before, tmp_path / "run")
        (run / "checkpoints" / "step-00000020" / "state.json").unlink()
        disk = faults.FaultyDisk(faults.die, number)

        def work(run: Path = run, disk: Disk = disk) -> None:
            Checkpoints(run / "checkpoints", on_problem=lambda line: None, disk=disk).newest()

        code = faults.in_child(work)
        found = Checkpoints(run / "checkpoints", on_problem=lambda line: None).newest()
        assert found is not None
        assert found.step == 10
        if code == 0:
            break


@pytest.mark.processes
@pytest.mark.parametrize(
    "trials", [8, pytest.param(300, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_sigkill_at_a_random_moment(faults: Any, before: Path, tmp_path: Path, trials: int) -> None:
    chance = random.Random(20261124)
    run = fresh(before, tmp_path / "run")
    newest = 20
    for _ in range(trials):
        child = os.fork()
        if child == 0:
            try:
                with lock(run):
                    checkpoints = Checkpoints(run / "checkpoints")
                    for step in itertools.count(newest + 1):
                        checkpoints.save(step, writer("b"), meta={"version": "new"})
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.005, 0.15))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        problems: list[str] = []
        with lock(run):
            assert debris(run) == []
            found = Checkpoints(run / "checkpoints", on_problem=problems.append).newest()
        assert found is not None
        content(found)
        assert found.step >= newest
        assert problems == []
        newest = found.step
    assert newest > 20


# --- (b) an error from every call ------------------------------------------------------------


@every_save
@pytest.mark.parametrize(
    ("code", "lasting"),
    [
        pytest.param(
            code,
            lasting,
            id=f"{errno.errorcode[code]} {'from then on' if lasting else 'once'}",
            marks=() if fast else pytest.mark.faults,
        )
        for code, lasting, fast in [
            (errno.ENOSPC, False, True),
            (errno.EIO, True, True),
            (errno.ENOSPC, True, False),
            (errno.EIO, False, False),
            (errno.EROFS, False, False),
            (errno.EROFS, True, False),
            (errno.EDQUOT, False, False),
            (errno.EDQUOT, True, False),
        ]
    ],
)
def test_an_error_at_every_call_of_a_save(
    faults: Any, before: Path, tmp_path: Path, save: Save, code: int, lasting: bool
) -> None:
    def fault() -> None:
        raise OSError(code, os.strerror(code))

    for number in itertools.count(1):
        run = fresh(before, tmp_path / "run")
        disk = faults.FaultyDisk(fault, number, last=10**9 if lasting else number)
        problems: list[str] = []
        failure: EnvironmentProblem | None = None
        try:
            save(run / "checkpoints", disk, problems)
        except EnvironmentProblem as problem:
            failure = problem
        if failure is not None:
            check_message(failure, code)
            assert lasting or not any(name.startswith(".staging") for name in debris(run))
        check_after_crash(run, save, committed=failure is None)
        if disk.count < number:
            assert failure is None
            assert problems == []
            break
    assert number > 40


def check_message(problem: EnvironmentProblem, code: int) -> None:
    assert problem.exit_code == 4
    assert "step-000000" in str(problem)
    assert problem.hint is not None
    assert "tunesmith resume" in problem.hint
    if code in (errno.ENOSPC, errno.EDQUOT):
        assert " free, at least 5" in str(problem)  # 53.8 KiB, as the checkpoint before took
        assert "KiB needed" in str(problem)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_every_call_of_write_atomic(faults: Any, tmp_path: Path, code: int) -> None:
    def fault() -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "report.json"
    for number in itertools.count(1):
        write_atomic(path, "old")
        disk = faults.FaultyDisk(fault, number)
        try:
            write_atomic(path, "new", disk=disk)
        except EnvironmentProblem:
            assert path.read_text() in ("old", "new")
            assert debris(tmp_path) == []
            continue
        break
    assert path.read_text() == "new"
    assert number > 5


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_every_call_of_the_lock(faults: Any, tmp_path: Path, code: int) -> None:
    def fault() -> None:
        raise OSError(code, os.strerror(code))

    entered = 0
    for number in range(1, 12):
        try:
            with lock(tmp_path, disk=faults.FaultyDisk(fault, number)):
                entered += 1
                with pytest.raises(UsageError):
                    lock(tmp_path).__enter__()
        except EnvironmentProblem:
            pass
        with lock(tmp_path):  # it was given back
            pass
    assert 0 < entered < 11


# --- (c) half-written files ------------------------------------------------------------------

percents = pytest.mark.parametrize("percent", [10, 30, 50, 70, 90])


@pytest.mark.processes
@every_save
@percents
@pytest.mark.parametrize("end", ["kill", "full", "library"])
def test_a_writer_that_is_interrupted_at_any_byte(
    faults: Any, before: Path, tmp_path: Path, save: Save, percent: int, end: str
) -> None:
    run = fresh(before, tmp_path / "run")

    def write(folder: Path) -> None:
        left = sum(SIZES.values()) * percent // 100
        for name, size in SIZES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"b" * min(size, left))
            left -= min(size, left)
            if left == 0:
                break
        match end:
            case "kill":
                faults.die()
            case "full":
                raise OSError(errno.ENOSPC, "No space left on device", str(folder / name))
            case _:
                raise RuntimeError("unexpected pos 576 vs 534")

    def work() -> None:
        with pytest.raises(EnvironmentProblem if end == "full" else RuntimeError):
            Checkpoints(run / "checkpoints", keep=1).save(save.step, write, best=save.best)
        assert debris(run) == []

    assert faults.in_child(work) == (faults.KILLED if end == "kill" else 0)
    assert check_after_crash(run, save) == "old"


class Part(Disk):
    """Writes a percentage of what it is given, then dies or has no more space."""

    def __init__(self, percent: int, end: Callable[[], None]) -> None:
        self.percent, self.end = percent, end
        self.armed = True

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if not self.armed:
            return super().write(fd, data)
        super().write(fd, data[: len(data) * self.percent // 100])
        self.end()
        raise AssertionError


@pytest.mark.processes
@percents
def test_a_manifest_of_which_only_a_part_is_written(
    faults: Any, before: Path, tmp_path: Path, percent: int
) -> None:
    run = fresh(before, tmp_path / "run")
    save = SAVES["next"]
    work = lambda: save(run / "checkpoints", Part(percent, faults.die))  # noqa: E731
    assert faults.in_child(work) == faults.KILLED
    assert check_after_crash(run, save) == "old"


@pytest.mark.processes
@percents
def test_an_event_of_which_only_a_part_is_written(
    faults: Any, tmp_path: Path, percent: int
) -> None:
    path = tmp_path / "events.jsonl"
    first, second, third = {"a": 1}, {"text": "x" * 10_000}, {"c": 3}

    def work() -> None:
        disk = Part(percent, faults.die)
        disk.armed = False
        log = EventLog(path, disk=disk)
        log.append(first)
        disk.armed = True
        log.append(second)

    assert faults.in_child(work) == faults.KILLED
    assert path.stat().st_size > 100
    assert list(read_events(path)) == [first]
    with EventLog(path) as log:
        log.append(third)
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [first, third]


@pytest.mark.processes
def test_kill_at_every_call_of_the_event_log(faults: Any, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for number in itertools.count(1):
        path.write_bytes(b'{"n": 0}\n{"torn')
        disk = faults.FaultyDisk(faults.die, number)

        def work(disk: Disk = disk) -> None:
            with EventLog(path, disk=disk) as log:
                log.append({"n": 1}, durable=True)
                log.append({"n": 2})

        code = faults.in_child(work)
        with EventLog(path) as log:
            log.append({"n": 9})
        numbers = [line["n"] for line in read_events(path)]
        assert numbers in ([0, 9], [0, 1, 9], [0, 1, 2, 9])
        if code == 0:
            break
    assert numbers == [0, 1, 2, 9]


# --- (d) races -------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize(
    "races", [20, pytest.param(500, marks=pytest.mark.faults)], ids=["short", "long"]
)
@pytest.mark.parametrize("has_locks", [True, False], ids=["flock", "no flock"])
def test_one_of_two_processes_on_one_run_wins(
    faults: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, races: int, has_locks: bool
) -> None:
    """Also where the file system refuses locks; every other race is for the run of a dead one."""
    if not has_locks:
        monkeypatch.setattr("fcntl.flock", _refuse_lock)
    for number in range(races):
        if number % 2:
            assert faults.in_child(lambda: _die_holding(faults, tmp_path)) == faults.KILLED
        outcomes = [os.pipe() for _ in range(2)]
        start, done = os.pipe(), os.pipe()
        children = []
        for _, outcome in outcomes:
            child = os.fork()
            if child == 0:
                os.close(start[1])
                os.close(done[1])
                os.read(start[0], 1)  # until the parent closes it: both start at once
                _race(tmp_path, outcome, done[0])
            children.append(child)
        os.close(start[1])
        outcome_texts = [os.read(outcome, 500).decode() for outcome, _ in outcomes]
        os.close(done[1])
        for child in children:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for fd in {*itertools.chain(*outcomes), start[0], done[0]}:
            os.close(fd)
        winner = children[0] if outcome_texts[0] == "won" else children[1]
        assert "won" in outcome_texts
        assert f"run is in use by pid {winner} on " in "".join(outcome_texts)


def _refuse_lock(fd: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _die_holding(faults: Any, folder: Path) -> None:
    with lock(folder):
        faults.die()


def _race(folder: Path, outcome: int, done: int) -> None:
    try:
        with lock(folder):
            os.write(outcome, b"won")
            os.read(done, 1)
    except UsageError as refused:
        os.write(outcome, str(refused).encode())
    except BaseException as error:
        os.write(outcome, repr(error).encode())
        os._exit(1)
    os._exit(0)


# --- (e) a disk that really is full, and one that really is read-only ------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte in memory."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def big(size: int, error: type[Exception] | None = None) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        try:
            (folder / "weights").write_bytes(os.urandom(size))
        except OSError:
            if error is not None:
                raise error("unexpected pos 576 vs 534") from None
            raise

    return write


@pytest.mark.parametrize("error", [None, RuntimeError, ValueError])
def test_a_full_disk_keeps_the_old_checkpoint_and_reports_both_sizes(
    small_disk: Path, error: type[Exception] | None
) -> None:
    problems: list[str] = []
    checkpoints = Checkpoints(small_disk / "checkpoints", keep=1, on_problem=problems.append)
    checkpoints.save(1, big(400_000))
    with pytest.raises(
        EnvironmentProblem, match=r"disk is full, 6\d\d\.\d KiB free, at least"
    ) as e:
        checkpoints.save(2, big(700_000, error))
    assert "KiB needed" in str(e.value)
    assert debris(small_disk) == []
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1
    checkpoints.save(2, big(400_000))
    assert checkpoints.steps() == [2]
    assert problems == []


def test_a_full_disk_keeps_files_and_event_log_intact(small_disk: Path) -> None:
    write_atomic(small_disk / "report.json", "old")
    with EventLog(small_disk / "events.jsonl") as log:
        log.append({"n": 1})
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(EnvironmentProblem, match="the disk is full"):
            log.append({"text": "x" * 10_000})
        with pytest.raises(EnvironmentProblem, match="the disk is full"):
            write_atomic(small_disk / "report.json", "new" * 10_000)
        filler.unlink()
        log.append({"n": 2})
    assert (small_disk / "report.json").read_text() == "old"
    assert list(read_events(small_disk / "events.jsonl")) == [{"n": 1}, {"n": 2}]
    assert debris(small_disk) == []


def test_a_read_only_disk_is_named_and_still_read(small_disk: Path) -> None:
    problems: list[str] = []
    checkpoints = Checkpoints(small_disk / "checkpoints", on_problem=problems.append)
    checkpoints.save(1, big(1000))
    (checkpoints.save(2, big(1000)) / "weights").write_bytes(b"damaged")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(EnvironmentProblem, match="read-only"):
        checkpoints.save(3, big(1000))
    with pytest.raises(EnvironmentProblem, match="read-only"):
        lock(small_disk).__enter__()
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1
    assert "could not be renamed" in problems[0]
