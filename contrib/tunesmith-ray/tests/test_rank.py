"""The begin of a process: it becomes `tunesmith resume`, and ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith.storage import lock
from tunesmith_ray import rank

PARENT = """
import subprocess, sys, time, os
code = "import os, sys, time; from tunesmith_ray.rank import end_with_parent; "
code += "end_with_parent(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code, str(os.getpid())])
time.sleep(60)
"""


def is_alive(process: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{process}/stat").read_bytes()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_process_ends_with_the_worker_that_started_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(child)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_process_whose_worker_has_ended_before_does_nothing() -> None:
    command = [sys.executable, "-m", "tunesmith_ray.rank", "--parent", "1", "/nowhere"]
    assert subprocess.run(command, check=False).returncode == 128 + signal.SIGKILL


def test_a_command_names_its_parent_and_rank_0_waits_for_the_lock(tmp_path: Path) -> None:
    first, second = (rank.build_command(tmp_path, number) for number in (0, 1))
    assert first[1:6] == ["-P", "-m", "tunesmith_ray.rank", "--parent", str(os.getpid())]
    assert [word for word in first if word not in second] == ["--wait"]
    assert rank.resume_arguments(tmp_path) == ["-P", "-m", "tunesmith", "resume", str(tmp_path)]


def test_a_folder_that_is_gone_ends_the_process_with_a_message(tmp_path: Path) -> None:
    command = rank.build_command(tmp_path / "gone", 0)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no such folder" in done.stderr


def test_a_run_that_another_process_has_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with lock(tmp_path):
        process = subprocess.Popen(
            rank.build_command(tmp_path, 0), stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        assert "tunesmith-ray: waiting for 300 seconds" in process.stderr.readline()
        process.kill()
        process.communicate()
