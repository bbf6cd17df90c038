"""Several processes of one run, as started by torchrun.

Rank 0 executes the run as usual. The worker ranks (above 0) wait until rank 0 starts to train. They
train with it, and exit when it exits. They report nothing and write nothing.

The ranks meet at a rendezvous file, in the temporary folder or in a folder that several machines
share. Its name is a hash of the torchrun launch and of the run's number within the script. Rank 0
keeps the file locked, and the kernel releases the lock however the process ends.

A launch is identified by torchrun's process id and start time. If these are unknown, as on several
machines, an unlocked file may be from an earlier launch, so worker ranks wait for a lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tunesmith.errors import EnvironmentProblem, RunStopped, UsageError
from tunesmith.signals import end_process, restore_handlers, set_stop_handlers

STARTUP_TIMEOUT = 600.0
"""Seconds that rank 0 may take to read its run file."""
POLL_SECONDS = 0.05  # interval at which worker ranks check the state of rank 0
SHARED_FOLDER = "TUNESMITH_RANKS"  # environment variable with the folder that all machines share
STALE_SECONDS = 86_400  # older rendezvous files are deleted if nobody locks them
_TRAINING_SUFFIX, _ENDED_SUFFIX = ".training", ".ended"


class EndedByRankZero(Exception):
    """Raised on a worker rank when its training has ended; rank 0 reports the reason."""


def rank() -> int:
    """Return the rank of this process; 0 without torchrun."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def local_rank() -> int:
    """Return the rank of this process on its machine; 0 without torchrun."""
    return int(os.environ["LOCAL_RANK"]) if world_size() > 1 else 0


def world_size() -> int:
    """Return the number of processes that torchrun has started; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def has_several_machines() -> bool:
    """Return True if torchrun has started processes on several machines."""
    return world_size() > 1 and os.environ["LOCAL_WORLD_SIZE"] != os.environ["WORLD_SIZE"]


@dataclass
class Launch:
    """Identifies a launch of torchrun; equal in all processes of the launch."""

    process: int
    """Process id of torchrun."""
    started: str
    """The :func:`start_time` of torchrun; empty if unknown."""
    folder: Path
    """Shared folder where the ranks find each other."""
    run_number: int = 0
    """Number of the next run in this process: each run of a script has its own rendezvous file."""

    @classmethod
    def of_process(cls, process: int) -> Launch:
        """Identify the launch by torchrun's process id and return it."""
        if has_several_machines() or SHARED_FOLDER in os.environ:  # ranks may have several parents
            return cls(0, "", Path(os.environ.get(SHARED_FOLDER, "")))
        return cls(process, start_time(process), Path(tempfile.gettempdir()))

    def rendezvous_path(self) -> Path:
        """Return the path of the file where the ranks meet for the next run.

        Raises:
            UsageError: there are several machines, but no shared folder is set.
            EnvironmentProblem: the folder is a symbolic link or belongs to another user.
        """
        if has_several_machines() and not os.environ.get(SHARED_FOLDER):
            raise UsageError(
                "torchrun: ranks on several machines need a shared folder",
                hint=f"set {SHARED_FOLDER} to a folder that all machines can access",
            )
        folder = self.folder / f"tunesmith-ranks-{os.getuid()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            hint = "set TMPDIR to a folder that you own"
            what = "is a symbolic link or belongs to another user"
            raise EnvironmentProblem(f"{folder}: {what}", hint=hint)
        variables = ["TORCHELASTIC_RUN_ID", "MASTER_PORT"]
        if not has_several_machines():  # with several torchruns, each counts its own restarts
            variables.append("TORCHELASTIC_RESTART_COUNT")
        host = "" if has_several_machines() else os.uname().nodename
        identity = [host, str(self.process), self.started, str(self.run_number)]
        identity += [os.environ.get(name, "") for name in variables]
        return folder / hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]


@cache
def current_launch() -> Launch:
    """Return the launch that started this process."""
    return Launch.of_process(os.getppid())


@contextmanager
def announce_rank_zero(folder: Path, launch: Launch | None = None) -> Iterator[None]:
    """Announce the run folder to the worker ranks; hold the lock that shows rank 0 is alive."""
    if world_size() == 1:
        yield
        return
    launch = launch or current_launch()
    path = launch.rendezvous_path()
    _delete_stale_files(path.parent)
    for suffix in (_TRAINING_SUFFIX, _ENDED_SUFFIX):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        # Not flock: a forked child would inherit that lock and keep it.
        fcntl.lockf(fd, fcntl.LOCK_EX)
        os.write(fd, os.fsencode(folder.absolute()))
        new.replace(path)
        yield
    finally:
        if isinstance(sys.exception(), RunStopped | None):
            Path(f"{path}{_ENDED_SUFFIX}").touch()
        launch.run_number += 1
        os.close(fd)


def signal_training_start(launch: Launch | None = None) -> None:
    """Tell the worker ranks that training starts. Without torchrun, do nothing."""
    if world_size() > 1:
        path = (launch or current_launch()).rendezvous_path()
        Path(f"{path}{_TRAINING_SUFFIX}").touch()


@dataclass(frozen=True)
class RankZero:
    """Lets a worker rank read what rank 0 has written: its folder, and whether it ended."""

    folder: Path
    """The run folder of rank 0."""
    _path: Path
    _fd: int

    @classmethod
    def find(cls, timeout: float = STARTUP_TIMEOUT, launch: Launch | None = None) -> RankZero:
        """Wait at most ``timeout`` seconds until rank 0 has created or opened its run.

        Raises:
            EnvironmentProblem: rank 0 did not start a run in time.
        """
        launch = launch or current_launch()
        path, deadline = launch.rendezvous_path(), time.monotonic() + timeout
        launch.run_number += 1
        while (fd := open_rendezvous(path, start_is_known=bool(launch.started))) is None:
            if time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"rank {rank()}: rank 0 did not start a run within {timeout:g} seconds",
                    hint="start all ranks with one torchrun command that starts tunesmith itself",
                )
            time.sleep(POLL_SECONDS)
        return cls(Path(os.fsdecode(os.pread(fd, 1 << 16, 0))), path, fd)

    def wait_for_training(self) -> bool:
        """Wait until rank 0 trains; return False if it ended without training."""
        while not Path(f"{self._path}{_TRAINING_SUFFIX}").exists():
            if _is_unlocked(self._fd):
                return False
            time.sleep(POLL_SECONDS)
        return True

    def wait_for_end(self) -> None:
        """Wait until rank 0 has ended.

        Raises:
            EnvironmentProblem: rank 0 failed, and there are several machines. This rank must fail
                too, because each torchrun restarts only its own failed processes.
        """
        fcntl.lockf(self._fd, fcntl.LOCK_SH)
        if has_several_machines() and not Path(f"{self._path}{_ENDED_SUFFIX}").exists():
            raise EnvironmentProblem(f"rank {rank()}: rank 0 failed or was killed; see its output")

    @contextmanager
    def exit_with_rank_zero(self) -> Iterator[None]:
        """End this process when rank 0 ends, and ignore signals until then. Call it once.

        A signal goes to all ranks. Rank 0 stops after the current step, which needs all ranks. If
        rank 0 dies, this process may hang in a collective operation forever.
        """
        done = threading.Event()
        thread = threading.Thread(target=self._exit_when_unlocked, args=(done,), daemon=True)
        handlers = set_stop_handlers(signal.SIG_IGN)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            os.close(self._fd)
            restore_handlers(handlers)

    def _exit_when_unlocked(self, done: threading.Event) -> None:
        while not _is_unlocked(self._fd):
            if done.wait(POLL_SECONDS):
                return
        if not done.wait(1.0):  # ranks that train need up to this time to notice and report the end
            end_process(int(has_several_machines()))  # a torchrun restarts only after a failure


def start_time(process: int) -> str:
    """Return the boot id, PID namespace and start time of a process; "" if it is not running."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # proc(5): the second field is the command in parentheses, field 22 is starttime.
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] == b"Z":  # a zombie: it has ended, but its parent has not waited for it
            return ""
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {int(fields[19])}"
    except (OSError, IndexError, ValueError):
        return ""


def open_rendezvous(path: Path, *, start_is_known: bool) -> int | None:
    """Open the rendezvous file; return None if this launch has none yet.

    ``start_is_known`` is True if the path depends on the start time of the launch.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    # If the start time is known, an unlocked file is from an ended run of this launch.
    if start_is_known or not _is_unlocked(fd):
        return fd
    os.close(fd)
    return None


def _is_unlocked(fd: int) -> bool:
    """Return True if rank 0 has ended, or never locked this file."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _delete_stale_files(folder: Path) -> None:
    for file in folder.iterdir():
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > STALE_SECONDS:
                with file.open("r+b") as opened:
                    fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.unlink()
