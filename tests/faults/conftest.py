"""Failing disks and killed child processes, for tests of what a crash leaves behind.

``FaultyDisk`` counts the calls of the write path. A test lets the N-th call fail, for N from 1
until there is no such call, so every call is covered, new ones included.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trials import add_note, count_trials  # noqa: F401 - part of what tests get as "faults"

from tunesmith.storage.atomic import Disk

KILLED = 137


class FaultyDisk(Disk):
    """Calls ``fault()`` before the calls numbered ``first`` to ``last``, then lets them through.

    A fault that raises fails the call; one that exits is a ``kill -9`` just before it.
    """

    def __init__(self, fault: Callable[[], None], first: int, last: float | None = None) -> None:
        self.fault = fault
        self.first, self.last = first, first if last is None else last
        self.count = 0

    def before(self) -> None:
        self.count += 1
        if self.first <= self.count <= self.last:
            self.fault()

    def close(self, fd: int) -> None:
        try:
            self.before()
        finally:  # close() closes the file even if it reports an error
            os.close(fd)


def _counted(name: str) -> Callable[..., Any]:
    real = getattr(Disk, name)

    def call(self: FaultyDisk, *arguments: Any) -> Any:
        self.before()
        return real(self, *arguments)

    return call


for _name, _member in list(vars(Disk).items()):
    if callable(_member) and _name not in vars(FaultyDisk):
        setattr(FaultyDisk, _name, _counted(_name))


class PowerCut(FaultyDisk):
    """Simulates a power cut at call number ``first``: everything that was not flushed is lost.

    The worst case that POSIX allows: files written since the start and not flushed are empty, names
    in new folders that were not flushed are gone and, with ``undo``, renames in folders that were
    not flushed since are undone, but later deletions are not.
    """

    def __init__(self, root: Path, first: int, *, undo: bool) -> None:
        super().__init__(self.cut, first)
        self.root, self.undo = root, undo
        self.old = {path.stat().st_ino for path in [root, *root.rglob("*")]}
        self.flushed: set[int] = set()
        self.renames: list[tuple[Path, Path, Path]] = []

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        inode = os.fstat(fd).st_ino
        self.flushed.add(inode)
        self.renames = [entry for entry in self.renames if entry[1].parent.stat().st_ino != inode]

    def rename(self, source: Path, target: Path) -> None:
        replaced = self.root.with_name(f"replaced-{self.count}")
        replaced.unlink(missing_ok=True)
        if target.is_file():
            os.link(target, replaced)
        super().rename(source, target)
        self.renames.append((source, target, replaced))

    def cut(self) -> None:
        for source, target, replaced in reversed(self.renames if self.undo else []):
            if target.exists() and not source.exists():
                target.rename(source)
            if replaced.exists():
                replaced.rename(target)
        kept = self.old | self.flushed
        for folder, _, names in os.walk(self.root, topdown=False):
            is_flushed = os.stat(folder).st_ino in kept
            for path in (Path(folder, name) for name in names):
                if not is_flushed:
                    path.unlink()
                elif path.stat().st_ino not in kept:
                    os.truncate(path, 0)
        os._exit(KILLED)


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child; return its exit code, 0 if it finished."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        finally:
            sys.stderr.flush()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    os._exit(KILLED)


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory if possible: these tests flush a hundred thousand times."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tunesmith-faults-", dir=where) as folder:
        yield Path(folder)


@pytest.fixture
def tmp_path(memory: Path) -> Path:
    """In place of pytest's own fixture: a folder in memory."""
    return Path(tempfile.mkdtemp(dir=memory))


@pytest.fixture
def faults() -> Any:
    """This module; test folders are no packages, so its contents are passed as a fixture."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def real() -> Any:
    """Real runs in forked children: the module ``real_runs``."""
    return importlib.import_module("real_runs")


@pytest.fixture(scope="session")
def workshop(memory: Path, real: Any) -> Any:
    """A tiny model, data, and runs that tests share."""
    folder = memory / "workshop"
    folder.mkdir()
    return real.RunFixtures(folder)
