"""Several processes at the lock of a run: one holder at a time, and always one that gets it.

The processes are forked children that count as machines of their own. No lock of the file system
meets between them, their clocks differ by minutes, and some are killed while they hold the run. A
lock of the kernel, which the code under test does not see, shows that nobody else is inside.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trials

from tunesmith.errors import RunInUseError, TunesmithError
from tunesmith.storage import LockHolder, lock, run_lock
from tunesmith.storage.atomic import Disk

pytestmark = pytest.mark.processes

ENDED, REFUSED, TWO_HOLDERS = 0, 10, 11
_flock, _utime, _time, _start = fcntl.flock, os.utime, time.time, run_lock.start_time


@dataclass(frozen=True)
class Machine:
    """A machine, whose clock is off by so many seconds."""

    number: int
    skew: float = 0.0

    def become(self) -> None:
        """Let this process count as one of this machine."""
        skew, number = self.skew, self.number

        def flock(fd: int, operation: int) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + timedelta(seconds=skew)

        def utime(path: Any, times: Any = None) -> None:
            now = _time() + skew
            _utime(path, times or (now, now))

        fcntl.flock = flock  # type: ignore[assignment]
        os.utime = utime  # type: ignore[assignment]
        time.time = lambda: _time() + skew
        run_lock.datetime = Clock  # type: ignore[attr-defined]
        run_lock.start_time = lambda pid: f"machine-{number} {_start(pid)}"  # type: ignore
        # Beats are twenty times as fast as in earnest; the wait is long for a machine that is busy.
        run_lock.HEARTBEAT_SECONDS, run_lock.HEARTBEAT_TIMEOUT_SECONDS = 0.05, 2.0  # type: ignore[misc]
        run_lock.SETTLE_SECONDS = 0.02  # type: ignore[misc]


def start(machine: Machine, work: Callable[[], int]) -> int:
    """Start a process of a machine; return its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(120)  # no child outlives a test that has failed
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until it ends
        machine.become()
        code = work()
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class SlowDisk(Disk):
    """A disk whose calls take long at random, as on a network: longer than a take-over settles."""

    def __init__(self, seed: int, seconds: float) -> None:
        self.random, self.seconds = random.Random(seed), seconds

    def wait(self) -> None:
        time.sleep(self.random.choice((0.0, 0.0, self.random.uniform(0, self.seconds))))

    def open(self, path: Path, flags: int) -> int:
        self.wait()
        return super().open(path, flags)

    def rename(self, source: Path, target: Path) -> None:
        self.wait()
        super().rename(source, target)


def hold(folder: Path, disk: Disk | None = None) -> int:
    """Hold the run until it is released; return whether that was possible, and nobody was inside.

    Waits for its release as a file, so that the winner outlasts all others.
    """
    with suppress(RunInUseError), lock(folder, take_over=True, disk=disk or Disk()):
        witness = os.open(folder.parent / "inside", os.O_RDWR | os.O_CREAT)
        try:
            _flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return TWO_HOLDERS
        (folder.parent / f"entered-{os.getpid()}").touch()
        while not (folder.parent / "release").exists():
            time.sleep(0.005)
        os.close(witness)
        return ENDED
    return REFUSED


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def start_holder(folder: Path, machine: Machine) -> int:
    child = start(machine, lambda: hold(folder))
    wait_until((folder.parent / f"entered-{child}").exists)
    return child


def compete(folder: Path, machines: list[Machine], seed: int) -> list[int]:
    """Let processes of these machines ask for the run at once; return how each one has ended.

    The run is released when only one is left.
    """
    (folder.parent / "release").unlink(missing_ok=True)
    running = {
        start(machine, lambda n=n: hold(folder, SlowDisk(seed * 100 + n, 0.1)))  # type: ignore
        for n, machine in enumerate(machines)
    }
    codes = []
    while running:
        if len(running) == 1:
            (folder.parent / "release").touch()
        child, status = os.wait()
        running.discard(child)
        codes.append(os.waitstatus_to_exitcode(status))
    return codes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


CLOCKS = (0.0, -600.0, 900.0)
PLACES = {
    "one machine": [Machine(0)] * 5,
    "machines": [Machine(n, CLOCKS[n % 3]) for n in range(5)],
    "other machines": [Machine(n + 1, CLOCKS[n % 3]) for n in range(5)],
    "both": [Machine(n % 2, CLOCKS[n % 3]) for n in range(6)],
}


def kill_holder(run: Path, machine: Machine) -> None:
    (run.parent / "release").unlink(missing_ok=True)
    child = start_holder(run, machine)
    os.kill(child, signal.SIGKILL)
    assert end(child) == -signal.SIGKILL
    assert (run / "lease").exists()


def check_one_winner(run: Path, machines: list[Machine], seed: int) -> None:
    codes = compete(run, machines, seed)
    assert sorted(codes) == [ENDED, *[REFUSED] * (len(machines) - 1)], f"seed {seed}: {codes}"
    assert sorted(path.name for path in run.iterdir()) == ["lock"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", range(3))
def test_a_run_whose_holder_was_killed_gets_one_other(run: Path, place: str, seed: int) -> None:
    kill_holder(run, Machine(0, 300.0))
    check_one_winner(run, PLACES[place], seed)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_free_gets_one(run: Path, place: str, seed: int) -> None:
    check_one_winner(run, PLACES[place], seed)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", PLACES)
def test_many_times_over(run: Path, place: str) -> None:
    for seed in range(100, 140):
        kill_holder(run, Machine(0, 300.0))
        check_one_winner(run, PLACES[place], seed)
        check_one_winner(run, PLACES[place], seed)
    trials.count_trials(f"one of several processes gets a run: {place}", 80)


@pytest.mark.parametrize("call", range(1, 9))
def test_one_that_is_killed_while_it_takes_over_is_followed_by_one(run: Path, call: int) -> None:
    """Before each call of the disk until it holds the run."""

    class Fatal(Disk):
        left = call

        def tick(self) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def counted(name: str) -> Callable[..., Any]:
        def method(self: Any, *arguments: Any) -> Any:
            self.tick()
            return getattr(Disk, name)(self, *arguments)

        return method

    for name in ("open", "write", "fsync", "close", "rename", "unlink"):
        setattr(Fatal, name, counted(name))
    kill_holder(run, Machine(0))
    (run.parent / "release").touch()
    assert end(start(Machine(0), lambda: hold(run, Fatal()))) in (-signal.SIGKILL, ENDED)
    check_one_winner(run, PLACES["both"], call)


@pytest.mark.parametrize("skew", CLOCKS)
def test_a_holder_with_another_clock_keeps_the_run(run: Path, skew: float) -> None:
    child = start_holder(run, Machine(0, skew))
    try:
        codes = [end(start(Machine(n, other), lambda: hold(run))) for n, other in enumerate(CLOCKS)]
        assert codes == [REFUSED] * 3
    finally:
        (run.parent / "release").touch()
    assert end(child) == ENDED


@pytest.mark.parametrize("skew", CLOCKS)
def test_a_waiter_gets_the_run_if_its_holder_ends_meanwhile(run: Path, skew: float) -> None:
    """The holder is silent, so the other machine waits for a sign of life; then it ends."""
    child = start_holder(run, Machine(0))
    os.kill(child, signal.SIGSTOP)
    watching = run.parent / "watching"

    def wait() -> int:
        real = run_lock._last_sign
        run_lock._last_sign = lambda path: (watching.touch(), real(path))[1]  # type: ignore
        return hold(run)

    waiter = start(Machine(1, skew), wait)
    wait_until(watching.exists)
    (run.parent / "release").touch()
    os.kill(child, signal.SIGCONT)
    assert (end(child), end(waiter)) == (ENDED, ENDED)


def test_a_machine_that_sleeps_ends_also_if_its_successor_has_finished(run: Path) -> None:
    """Else it would go on, from an old step, in a run that is finished."""
    sleeper = start_holder(run, Machine(0))
    os.kill(sleeper, signal.SIGSTOP)

    def take_over() -> int:
        with lock(run, take_over=True):
            return ENDED

    assert end(start(Machine(1), take_over)) == ENDED
    assert not (run / "lease").exists()
    os.kill(sleeper, signal.SIGCONT)
    assert end(sleeper) == 4


def test_the_silence_is_counted_by_the_clock_of_the_file_system(run: Path) -> None:
    """Not by that of the reader, which may be minutes off."""
    away = {**asdict(LockHolder.current()), "host": "node1", "process": "another-boot 1"}
    (run / "lease").write_text(json.dumps(away))
    hour = time.time() - 3600
    os.utime(run / "lease", (hour, hour))

    def read_hint() -> int:
        os.utime = _utime  # the server's clock
        try:
            lock(run).__enter__()
        except TunesmithError as error:
            (run.parent / "hint").write_text(str(error.hint))
        return ENDED

    for skew in CLOCKS:
        assert end(start(Machine(0, skew), read_hint)) == ENDED
        assert "silent for 1 h 00 min" in (run.parent / "hint").read_text()
