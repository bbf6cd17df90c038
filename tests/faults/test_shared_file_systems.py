"""Two mounts of one folder whose locks do not meet, as on two machines: a run has one holder.

The mounts are real (``bindfs``), and the processes are in containers of their own, so that none can
look another one up.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import UsageError
from tunesmith.storage import LockHolder, RunFolder, lock

pytestmark = [pytest.mark.processes, pytest.mark.faults]

HOLD = """
import sys
from pathlib import Path
from tunesmith.storage import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """One folder, mounted twice."""
    if os.geteuid() != 0 or not shutil.which("bindfs"):
        pytest.skip("this needs root and the program bindfs")
    (tmp_path / "disk").mkdir()
    made = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            command = ["bindfs", str(tmp_path / "disk"), str(tmp_path / name)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
            made.append(tmp_path / name)
        yield made[0], made[1]
    finally:
        for path in made:
            subprocess.run(["umount", str(path)], check=True)


def start_holder(run: Path) -> subprocess.Popen[str]:
    command = [*CONTAINER, sys.executable, "-c", HOLD, str(run)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_is_refused_to_a_machine_that_sees_no_lock(
    faults: Any, mounts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Then its holder is killed, and the run is free twenty seconds later."""
    run = RunFolder.create(mounts[0], "x").path
    there = mounts[1] / run.name
    process = start_holder(run)
    try:
        with (there / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel would allow it
        for _ in range(3):
            with pytest.raises(UsageError, match="run is in use by pid 1 on "):
                lock(there).__enter__()
            faults.count_trials("run refused to a machine that sees no lock")
        process.send_signal(signal.SIGKILL)
        process.wait()
        started = time.monotonic()
        with lock(there):
            holder = LockHolder.read(run)
            assert holder is not None and holder.pid == os.getpid()
        assert 15 < time.monotonic() - started < 40
        assert "waiting up to 20 s to see if pid 1 on " in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()


def test_a_machine_that_was_asleep_ends_before_it_writes(
    faults: Any, mounts: tuple[Path, Path]
) -> None:
    """The holder is stopped for longer than another machine waits for it."""
    run = RunFolder.create(mounts[0], "x").path
    process = start_holder(run)
    try:
        inner = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().strip()
        os.kill(int(inner), signal.SIGSTOP)
        with lock(mounts[1] / run.name):
            os.kill(int(inner), signal.SIGCONT)
            assert process.wait(20) == 4
            holder = LockHolder.read(run)
            assert holder is not None and holder.pid == os.getpid()
        faults.count_trials("machine taken for dead ends when it wakes")
    finally:
        process.kill()
        process.communicate()
