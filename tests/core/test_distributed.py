"""How ranks find each other, without a training: tests/faults has real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tunesmith import api, distributed
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.offers import TechniqueOffer
from tunesmith.options import Options
from tunesmith.storage import Checkpoints

FOLLOW = """
from tunesmith import distributed
leader = distributed.Leader.find()
with leader.followed():
    print(leader.folder, leader.trains(), flush=True)
    leader.wait_for_end()
print("left")
"""


def torchrun(**changes: str) -> dict[str, str]:
    """What torchrun tells rank 0 of two."""
    told = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    return {**told, **changes}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in torchrun(TMPDIR=str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("os.getppid", os.getpid)  # the other one's parent is this process
    monkeypatch.setattr(distributed, "_runs", 0)


def follower(tmp_path: Path, program: str = FOLLOW) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **torchrun(RANK="1", LOCAL_RANK="1", TMPDIR=str(tmp_path))},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_alone_there_is_one() -> None:
    assert (distributed.number(), distributed.count(), distributed.local()) == (0, 1, 0)


def test_who_else_speaks_of_ranks_is_not_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (distributed.number(), distributed.count()) == (0, 1)


def test_the_others_wait_for_training_and_for_the_end(launched: None, tmp_path: Path) -> None:
    other = follower(tmp_path)
    with distributed.leading(tmp_path / "run"):
        distributed.call()
        assert other.stdout is not None
        assert other.stdout.readline() == f"{tmp_path / 'run'} True\n"
        assert other.poll() is None
    assert other.communicate(timeout=30)[0] == "left\n"
    assert other.returncode == 0


def test_the_others_leave_where_nothing_was_trained(
    launched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with distributed.leading(tmp_path / "old"):
        distributed.call()  # of an earlier run: its traces mislead nobody
    monkeypatch.setattr(distributed, "_runs", 0)
    with distributed.leading(tmp_path / "run"):
        other = follower(tmp_path)
    assert other.communicate(timeout=30)[0] == f"{tmp_path / 'run'} False\nleft\n"


def test_an_earlier_launch_misleads_nobody_who_comes_first(
    launched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container each torchrun has the same process number; here its start is not told."""
    monkeypatch.setattr(distributed, "_torchrun_began", str)
    with distributed.leading(tmp_path / "old"):
        distributed.call()
    monkeypatch.setattr(distributed, "_runs", 0)
    looks = (
        "import tunesmith.distributed as r; r._torchrun_began = str; first = r._opened(r._place())"
    )
    other = follower(tmp_path, f"{looks}; print(first, flush=True){FOLLOW}")
    assert other.stdout is not None
    assert other.stdout.readline() == "None\n"  # the file is there: it has looked, and waits on
    with distributed.leading(tmp_path / "run"):
        distributed.call()
        assert other.stdout.readline() == f"{tmp_path / 'run'} True\n"
    assert other.communicate(timeout=30)[0] == "left\n"


def test_launches_with_one_process_number_meet_at_different_files(
    launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = distributed._place()
    assert distributed._place() == now
    monkeypatch.setattr(distributed, "_torchrun_began", lambda: "boot 17")
    assert distributed._place() != now


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system has no /proc")
def test_the_start_of_torchrun_is_that_of_the_parent(launched: None) -> None:
    boot, ticks = distributed._torchrun_began().split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    age = uptime - int(ticks) / os.sysconf("SC_CLK_TCK")
    assert len(boot) == 36
    assert 0 <= age < uptime


def test_two_runs_of_one_script(launched: None, tmp_path: Path) -> None:
    looks = "print(distributed._opened(distributed._place()), flush=True)"
    other = follower(tmp_path, f"{FOLLOW}{looks}{FOLLOW}")
    assert other.stdout is not None
    for name, then in (("one", "left\nNone\n"), ("two", "left\n")):
        with distributed.leading(tmp_path / name):
            distributed.call()
            assert other.stdout.readline() == f"{tmp_path / name} True\n"
        assert "".join(other.stdout.readline() for _ in then.splitlines()) == then
    assert other.wait(timeout=30) == 0
    other.stdout.close()


def test_an_error_leaves_signals_as_they_were(launched: None, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in distributed.POLITE]
    with pytest.raises(KeyError), distributed.leading(tmp_path / "run"):
        raise KeyError
    assert [signal.getsignal(number) for number in distributed.POLITE] == before


def test_a_command_that_failed_tells_it_whatever_signal_comes(
    launched: None,
) -> None:
    before = {number: signal.getsignal(number) for number in distributed.POLITE}
    try:
        with distributed.outspoken():
            pass
        assert {number: signal.getsignal(number) for number in distributed.POLITE} == before
        with pytest.raises(KeyError), distributed.outspoken():
            raise KeyError
        assert {signal.getsignal(number) for number in distributed.POLITE} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


LEAVE = """
import os, threading
from tunesmith import distributed
leader = distributed.Leader.find()
try:
    with leader.followed():
        raise KeyError
except KeyError:
    print(threading.active_count(), os.path.exists(f"/dev/fd/{leader._fd}"))
"""


def test_a_rank_that_fails_leaves_nothing_behind(launched: None, tmp_path: Path) -> None:
    """In a script that goes on: no thread that would end it, no open file."""
    with distributed.leading(tmp_path / "run"):
        other = follower(tmp_path, LEAVE)
        assert other.communicate(timeout=30)[0] == "1 False\n"


def test_rank_0_that_never_comes(
    launched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "PATIENCE", 0.0)
    with pytest.raises(EnvironmentProblem, match="rank 0 did not begin"):
        distributed.Leader.find()


def test_several_machines_are_refused(
    launched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match="several machines"), distributed.leading(tmp_path):
        pass


def test_a_technique_that_trains_alone_is_refused(
    launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An offer that does not speak of it, as those of third parties."""
    offer = TechniqueOffer(
        name="solo",
        summary="trains alone",
        config=Options,
        build=lambda options: cast(Any, None),
        accepts=frozenset(),
    )
    plan: Any = SimpleNamespace(technique=SimpleNamespace(offer=offer))
    with pytest.raises(UsageError, match="technique solo: cannot train with the 2 processes"):
        api.refuse_unrunnable(plan)


def test_who_does_not_hold_the_run_only_looks(tmp_path: Path) -> None:
    mine = Checkpoints(tmp_path / "checkpoints")
    path = mine.save(1, lambda folder: (folder / "weights").write_text("x") and None)
    theirs = Checkpoints(tmp_path / "checkpoints", owned=False, on_problem=lambda text: None)
    found = theirs.newest()
    assert found is not None
    assert found.step == 1
    (path / "weights").write_text("y")
    assert theirs.newest() is None
    assert path.is_dir()
    with pytest.raises(RuntimeError, match="only the process that holds the run"):
        theirs.save(2, lambda folder: None)
    assert mine.steps() == [1]
