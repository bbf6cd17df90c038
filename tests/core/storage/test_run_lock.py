"""The lock of a run folder: within a machine, and across machines whose locks do not meet."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tunesmith.distributed import start_time
from tunesmith.errors import UsageError
from tunesmith.storage import LockHolder, lock, lock_to_read, run_lock

ODD = b'{"pid": "x", "host": [], "process": 1, "started": null}'
FLOCK_ERRORS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]


HOLD = """
import sys, time
from pathlib import Path
from tunesmith.storage import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder_process(folder: Path, script: str = HOLD) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(folder)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_in_use_is_refused_with_its_holder_and_free_after_kill_9(
    tmp_path: Path,
) -> None:
    process = holder_process(tmp_path)
    try:
        started = time.monotonic()
        with pytest.raises(UsageError, match=f"run is in use by pid {process.pid} on "):
            lock(tmp_path).__enter__()
        assert time.monotonic() - started < 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        holder = LockHolder.read(tmp_path)
        assert holder is not None and holder.pid == process.pid
        assert not holder.may_be_alive()
        with lock(tmp_path):
            assert is_held_here(tmp_path)
    finally:
        process.kill()
        process.communicate()


def test_the_lease_names_its_holder_until_a_clean_end(tmp_path: Path) -> None:
    with lock(tmp_path):
        holder = LockHolder.read(tmp_path)
        assert holder is not None and holder.pid == os.getpid()
        assert holder.may_be_alive()
        inode = (tmp_path / "lock").stat().st_ino
    assert (tmp_path / "lock").stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_same_process_is_refused_too_and_the_first_lock_survives_that(tmp_path: Path) -> None:
    with lock(tmp_path):
        for _ in range(2):
            with pytest.raises(UsageError, match=f"in use by pid {os.getpid()} "):
                lock(tmp_path).__enter__()
    with lock(tmp_path):
        pass


def test_the_lock_is_released_when_the_body_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock(tmp_path):
        raise KeyboardInterrupt
    with lock(tmp_path):
        pass


def test_a_forked_worker_cannot_free_the_lock(tmp_path: Path) -> None:
    context = lock(tmp_path)
    context.__enter__()
    worker = os.fork()
    if worker == 0:
        context.__exit__(None, None, None)  # as if the child ran off the end of the `with`
        os._exit(0)
    assert os.waitpid(worker, 0)[1] == 0
    with pytest.raises(UsageError):
        lock(tmp_path).__enter__()
    assert is_held_here(tmp_path)
    context.__exit__(None, None, None)
    with lock(tmp_path):
        pass


HOLD_WITH_WORKER = """
import os, sys, time
from pathlib import Path
from tunesmith.storage import lock
with lock(Path(sys.argv[1])):
    if os.fork() == 0:
        print("held", flush=True)
        sys.stdin.read()
        os._exit(0)
    time.sleep(60)
"""


def test_a_worker_that_outlives_a_killed_run_does_not_keep_the_lock(tmp_path: Path) -> None:
    process = holder_process(tmp_path, HOLD_WITH_WORKER)
    process.kill()
    process.wait()
    assert process.stdin is not None
    assert process.stdout is not None
    with lock(tmp_path):
        process.stdin.close()
        assert process.stdout.read() == ""  # its end: only now the worker has gone


def write_lease(folder: Path, holder: LockHolder) -> None:
    (folder / "lease").write_text(json.dumps(asdict(holder)))


def dead_holder() -> LockHolder:
    return replace(LockHolder.current(), pid=2**22 + 1)


def distant_holder() -> LockHolder:
    """A process of another machine, which has the number of this one."""
    own = LockHolder.current()
    process = f"another-boot {own.process.partition(' ')[2]}"
    return replace(own, host="node1", process=process, started="2026-11-28T12:00:00+00:00")


def is_held_here(folder: Path) -> bool:
    holder, own = LockHolder.read(folder), LockHolder.current()
    return holder is not None and replace(holder, started=own.started) == own


@contextmanager
def signs_of_life(folder: Path) -> Iterator[None]:
    """Touch the lease as its holder on another machine does."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(folder / "lease")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "HEARTBEAT_TIMEOUT_SECONDS", 0.4)


def set_flock(monkeypatch: pytest.MonkeyPatch, error: int | None) -> None:
    """Make ``flock`` fail, or with None lock nothing, as between machines that do not share it."""

    def flock(fd: int, operation: int) -> None:
        if error is not None:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", flock)


def test_a_refusal_waits_for_the_name_of_the_present_holder(tmp_path: Path) -> None:
    write_lease(tmp_path, dead_holder())
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        late = threading.Timer(0.1, write_lease, [tmp_path, LockHolder.current()])
        late.start()
        with pytest.raises(UsageError, match=f"in use by pid {os.getpid()} "):
            lock(tmp_path).__enter__()
        late.join()
        (tmp_path / "lease").unlink()
        with pytest.raises(UsageError, match="in use by another process"):
            lock(tmp_path).__enter__()


def test_the_lease_of_an_ended_process_is_taken_at_once(tmp_path: Path) -> None:
    """Also that of a process whose number another one has now, and of one not yet reaped."""
    own = LockHolder.current()
    earlier = own.process.rpartition(" ")[0] + " 1"
    child = os.fork()
    if child == 0:
        write_lease(tmp_path, LockHolder.current())
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    zombie = LockHolder.read(tmp_path)
    assert zombie is not None and zombie.pid == child
    for holder in (dead_holder(), replace(own, process=earlier), zombie):
        write_lease(tmp_path, holder)
        assert not holder.may_be_alive()
        with lock(tmp_path):
            assert is_held_here(tmp_path)
    os.waitpid(child, 0)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\x00", ODD])
@pytest.mark.usefixtures("short_wait")
def test_an_unreadable_lease_is_taken_if_nobody_touches_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "lease").write_bytes(content)
    with lock(tmp_path):
        assert is_held_here(tmp_path)
    assert "to see if its process is still running" in capsys.readouterr().err


def test_an_unreadable_lease_without_locks_names_the_command_that_frees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_flock(monkeypatch, FLOCK_ERRORS[0])
    (tmp_path / "lease").write_bytes(b"")  # the power failed before its content was written
    with pytest.raises(UsageError) as caught:
        lock(tmp_path).__enter__()
    assert f"tunesmith runs --unlock {tmp_path}" in str(caught.value.hint)


@pytest.mark.parametrize("error", [*FLOCK_ERRORS, None])
def test_without_locks_of_the_file_system_a_run_has_one_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    set_flock(monkeypatch, error)
    for _ in range(2):
        with lock(tmp_path), pytest.raises(UsageError, match=f"in use by pid {os.getpid()} "):
            lock(tmp_path).__enter__()
    write_lease(tmp_path, dead_holder())
    with lock(tmp_path):
        pass
    with pytest.raises(UsageError, match="no such folder"):
        lock(tmp_path / "nowhere").__enter__()


def test_other_errors_of_flock_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_flock(monkeypatch, errno.EINVAL)
    with pytest.raises(OSError, match="Invalid argument"):
        lock(tmp_path).__enter__()
    assert not (tmp_path / "lease").exists()


@pytest.mark.parametrize("error", [*FLOCK_ERRORS, None])
@pytest.mark.parametrize("take_over", [False, True])
@pytest.mark.usefixtures("short_wait")
def test_a_living_process_of_another_machine_keeps_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None, take_over: bool
) -> None:
    set_flock(monkeypatch, error)
    write_lease(tmp_path, distant_holder())
    with (
        signs_of_life(tmp_path),
        pytest.raises(UsageError, match=r"in use by pid \d+ on node1") as refused,
    ):
        lock(tmp_path, take_over=take_over).__enter__()
    assert refused.value.hint is not None
    assert f"`tunesmith runs --unlock {tmp_path}`" in refused.value.hint
    assert LockHolder.read(tmp_path) == distant_holder()


@pytest.mark.usefixtures("short_wait")
def test_a_silent_machine_loses_the_run_only_to_a_lock_or_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lease(tmp_path, distant_holder())
    with lock(tmp_path):
        assert is_held_here(tmp_path)
    assert f"to see if {distant_holder()} is still running" in capsys.readouterr().err
    set_flock(monkeypatch, errno.ENOLCK)
    write_lease(tmp_path, distant_holder())
    os.utime(tmp_path / "lease", (time.time() - 3600,) * 2)
    with pytest.raises(UsageError, match="on node1") as refused:
        lock(tmp_path).__enter__()
    assert "silent for 1 h 00 min" in str(refused.value.hint)
    assert capsys.readouterr().err == ""  # it did not wait
    with lock(tmp_path, take_over=True):
        assert is_held_here(tmp_path)


@pytest.mark.usefixtures("short_wait")
def test_of_two_machines_that_take_over_at_once_one_has_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lease(tmp_path, dead_holder())
    monkeypatch.setattr(run_lock, "SETTLE_SECONDS", 0.3)
    other = threading.Timer(0.15, write_lease, [tmp_path, distant_holder()])
    other.start()
    with signs_of_life(tmp_path), pytest.raises(UsageError, match=r"in use by pid \d+ on node1"):
        lock(tmp_path).__enter__()
    other.join()
    assert LockHolder.read(tmp_path) == distant_holder()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lease", "lock"]


def test_the_holder_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.02)
    with lock(tmp_path):
        before = (tmp_path / "lease").stat().st_mtime_ns
        deadline = time.monotonic() + 10
        while (tmp_path / "lease").stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_process_that_was_taken_for_dead_ends_when_it_wakes(tmp_path: Path) -> None:
    process = holder_process(tmp_path)
    process.send_signal(signal.SIGSTOP)
    write_lease(tmp_path, distant_holder())
    process.send_signal(signal.SIGCONT)
    started = time.monotonic()
    assert process.wait(timeout=30) == 4
    assert time.monotonic() - started < 10
    assert LockHolder.read(tmp_path) == distant_holder()
    process.communicate()


def test_a_holder_of_another_machine_may_be_alive() -> None:
    assert LockHolder.current().may_be_alive()
    assert distant_holder().may_be_alive()
    assert replace(distant_holder(), pid=2**22 + 1).may_be_alive()
    assert replace(distant_holder(), process="").may_be_alive()
    assert replace(LockHolder.current(), pid=1, process=start_time(1)).may_be_alive()
    assert not dead_holder().may_be_alive()
    assert start_time(2**22 + 1) == ""


def test_who_reads_a_run_locks_it_unless_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").touch()
    with lock_to_read(tmp_path), pytest.raises(run_lock.RunInUseError), lock(tmp_path):
        pass
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    before = sorted(tmp_path.iterdir())
    with lock_to_read(tmp_path):
        assert sorted(tmp_path.iterdir()) == before
        with lock(tmp_path):  # of a user who may write
            pass
