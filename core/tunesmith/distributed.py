"""Several processes of one run, as torchrun starts them on one machine.

torchrun starts the same command line several times and numbers the processes. Rank 0 carries out
the run as ever. The others wait until it trains, train with it, and leave when it has ended; they
tell nothing and write nothing.

They find rank 0 through a file in the temporary folder, named after this very torchrun and the
number of the run among those of its script. Rank 0 keeps it locked during the run, and the kernel
frees the lock however it ends: so nobody waits for a process that is gone.

A torchrun is known by its process number and the moment of its start, since in a container the
number is the same each time. Where the system does not tell that moment, a file that nobody locks
may be an earlier launch's, and the others wait for one that is locked.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.signals import POLITE

PATIENCE = 600.0
"""Seconds within which rank 0 must have read its run file."""
LOOK = 0.05
"""Seconds between two looks for what rank 0 does."""
OLD = 86_400
"""Seconds after which what a run left in the temporary folder is cleared away."""
_TRAINING = ".training"
_runs = 0
"""Runs that this process has been through: those of one script meet at different files."""


class Dismissed(Exception):
    """Training has ended for this rank, and rank 0 knows why and tells it."""


def number() -> int:
    """This process's rank; 0 where there are no others."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def local() -> int:
    """This process's rank among those of its machine."""
    return int(os.environ["LOCAL_RANK"]) if count() > 1 else 0


def count() -> int:
    """How many processes torchrun has started; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


# --------------------------------------------------------------------------- rank 0


@contextmanager
def leading(folder: Path) -> Iterator[None]:
    """Be found by the other ranks, and be known to live, while this is open.

    Raises:
        UsageError: torchrun has started processes on several machines.
    """
    global _runs
    if count() == 1:
        yield
        return
    place = _place()
    _sweep(place.parent)
    with suppress(FileNotFoundError):
        Path(f"{place}{_TRAINING}").unlink()
    new = place.with_name(f"{place.name}.{os.getpid()}")
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        # Not flock: a child that is forked would go on holding that.
        fcntl.lockf(fd, fcntl.LOCK_EX)
        os.write(fd, os.fsencode(folder.absolute()))
        new.replace(place)
        yield
    finally:
        _runs += 1
        os.close(fd)


@contextmanager
def outspoken() -> Iterator[None]:
    """Let no signal keep rank 0 from telling the error that a run ends with; for a command line.

    Where another rank fails, torchrun ends rank 0 with a signal. The run heeds it; after an error
    the process only tells it and ends, so signals stay ignored.
    """
    if count() == 1:
        yield
        return
    before = _ignoring_signals()
    yield
    _heed_again(before)


def call() -> None:
    """Tell the other ranks that training begins; nothing where there are none."""
    if count() > 1:
        Path(f"{_place()}{_TRAINING}").touch()


# --------------------------------------------------------------------------- the others


@dataclass(frozen=True)
class Leader:
    """Rank 0 as the other ranks see it."""

    folder: Path
    """Of the run."""
    _place: Path
    _fd: int

    @classmethod
    def find(cls) -> Leader:
        """Wait until rank 0 has a run.

        Raises:
            EnvironmentProblem: it does not show up.
        """
        global _runs
        place, deadline = _place(), time.monotonic() + PATIENCE
        _runs += 1
        while (fd := _opened(place)) is None:
            if time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"rank {number()}: rank 0 did not begin a run within {PATIENCE:g} seconds",
                    hint="start all ranks with one torchrun, which starts tunesmith itself",
                )
            time.sleep(LOOK)
        return cls(Path(os.fsdecode(os.pread(fd, 1 << 16, 0))), place, fd)

    def trains(self) -> bool:
        """Wait until rank 0 trains; False: it has ended, and did not."""
        while not Path(f"{self._place}{_TRAINING}").exists():
            if _is_free(self._fd):
                return False
            time.sleep(LOOK)
        return True

    def wait_for_end(self) -> None:
        """Wait until rank 0 has ended, however it does."""
        fcntl.lockf(self._fd, fcntl.LOCK_SH)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Inside, this process ends when rank 0 does, and for no signal's sake. Only once.

        A signal goes to all ranks: it is rank 0 that heeds it, after a step that needs them all.
        Where rank 0 dies this process may hang in an exchange, which nothing else would end.
        """
        over = threading.Event()
        thread = threading.Thread(target=self._end_with, args=(over,), daemon=True)
        before = _ignoring_signals()
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            os.close(self._fd)
            _heed_again(before)

    def _end_with(self, over: threading.Event) -> None:
        while not _is_free(self._fd):
            if over.wait(LOOK):
                return
        if not over.wait(1.0):  # in training the others notice, and say so, within that time
            os._exit(0)


def _ignoring_signals() -> dict[int, Any]:
    """Ignore polite signals from here on; what was done about them before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {sent: signal.signal(sent, signal.SIG_IGN) for sent in POLITE}


def _heed_again(before: dict[int, Any]) -> None:
    for sent, handler in before.items():
        signal.signal(sent, handler)


def _place() -> Path:
    """The file at which the ranks of this torchrun meet.

    Raises:
        UsageError: torchrun has started processes on several machines.
        EnvironmentProblem: the folder is somebody else's.
    """
    if os.environ["LOCAL_WORLD_SIZE"] != os.environ["WORLD_SIZE"]:
        raise UsageError(
            "torchrun: ranks on several machines cannot train together yet",
            hint="start all of them on one machine: torchrun --nproc-per-node GPUS",
        )
    folder = Path(tempfile.gettempdir()) / f"tunesmith-ranks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise EnvironmentProblem(f"{folder}: belongs to somebody else", hint="set TMPDIR")
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT")
    told = [str(os.getppid()), _torchrun_began(), *(os.environ.get(name, "") for name in names)]
    told.append(str(_runs))
    return folder / hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def _torchrun_began() -> str:
    """The system's start and, since then, torchrun's, in ticks; empty where this is not told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The second field is the command in parentheses, and may hold any character.
        fields = Path(f"/proc/{os.getppid()}/stat").read_bytes().rpartition(b")")[2].split()
        return f"{boot} {int(fields[19])}"  # field 22, starttime, in proc(5)
    except (OSError, IndexError, ValueError):
        return ""


def _opened(place: Path) -> int | None:
    """The file at which rank 0 is to be met, opened; None: there is none of this launch yet."""
    try:
        fd = os.open(place, os.O_RDONLY)
    except FileNotFoundError:
        return None
    # One of this launch that nobody locks is of a run that has ended already.
    if _torchrun_began() or not _is_free(fd):
        return fd
    os.close(fd)
    return None


def _is_free(fd: int) -> bool:
    """Whether rank 0 has ended, or never held this file."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep(folder: Path) -> None:
    for file in folder.iterdir():
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > OLD:
                _remove_unheld(file)


def _remove_unheld(file: Path) -> None:
    fd = os.open(file, os.O_RDWR)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink()
    finally:
        os.close(fd)
