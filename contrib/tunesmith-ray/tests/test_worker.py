"""A worker without Ray: its processes are started, watched and stopped."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from tunesmith_ray import worker
from tunesmith_ray.work import Rendezvous, Work, WorkerPlace
from tunesmith_ray.worker import Worker, exit_code, log_path

MEETING = Rendezvous([WorkerPlace("n1", "127.0.0.1", 1)], "a")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ray").mkdir()
    return tmp_path


def start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *programs: str, grace_seconds: int = 60
) -> Worker:
    """Return a worker whose processes are these Python programs."""

    def build(folder: Path, rank: int) -> list[str]:
        head = "import os, signal, sys, time\n"
        return [sys.executable, "-c", head + programs[rank]]

    monkeypatch.setattr(worker, "build_command", build)
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0.5)
    work = Work(str(folder), processes=len(programs), grace_seconds=grace_seconds)
    return Worker(work, 0)


STOPPABLE = "signal.signal(15, lambda *_: sys.exit(143))\nopen('{0}', 'w'); time.sleep(60)"
STUBBORN = "signal.signal(15, signal.SIG_IGN)\nopen('{0}', 'w'); time.sleep(60)"


def test_exit_codes_are_those_of_shells(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = ["sys.exit(0)", "sys.exit(5)", "os.kill(os.getpid(), 9)"]
    assert start(folder, monkeypatch, *programs).run(MEETING) == [0, 5, 137]
    assert exit_code(-15) == 143


def test_each_process_has_its_log_over_all_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "print(os.environ['RANK'], file=sys.stderr); print('not this')"
    for _ in range(2):
        start(folder, monkeypatch, program, program).run(MEETING)
    assert log_path(folder, 0).read_text() == "0\n0\n"
    assert log_path(folder, 1).read_text() == "1\n1\n"


def test_the_others_are_stopped_when_one_has_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = folder / "ready"
    failing = f"while not os.path.exists('{ready}'): time.sleep(0.01)\nsys.exit(3)"
    began = time.monotonic()
    codes = start(folder, monkeypatch, STOPPABLE.format(ready), failing).run(MEETING)
    assert codes == [143, 3] and time.monotonic() - began < 30


@pytest.mark.parametrize(("program", "code"), [(STOPPABLE, 143), (STUBBORN, 137)])
def test_a_process_that_is_asked_to_stop_is_killed_after_its_grace(
    folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, code: int
) -> None:
    ready = folder / "ready"
    one = start(folder, monkeypatch, program.format(ready), grace_seconds=1)

    def stop() -> None:
        while not ready.exists():
            time.sleep(0.01)
        one.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    assert one.run(MEETING) == [code]
    thread.join()


def test_an_earlier_stop_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = start(folder, monkeypatch, "time.sleep(60)")
    one.stop(1000)
    one.stop()
    one.stop(1000)
    assert one.run(MEETING) == [143]


def test_a_place_has_a_port_that_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = start(folder, monkeypatch, "").find_place()
    assert place.address == "127.0.0.1" and 1024 <= place.port < 65_536 and place.host
