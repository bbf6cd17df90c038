"""The rendezvous of ranks, without training: tests/faults trains with several ranks."""

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

WORKER = """
from tunesmith import distributed
rank_zero = distributed.RankZero.find()
with rank_zero.exit_with_rank_zero():
    print(rank_zero.folder, rank_zero.wait_for_training(), flush=True)
    rank_zero.wait_for_end()
print("left")
"""


def torchrun_variables(**changes: str) -> dict[str, str]:
    """Return the environment variables that torchrun sets for rank 0 of two."""
    variables = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    return {**variables, **changes}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in torchrun_variables(TMPDIR=str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("os.getppid", os.getpid)  # the parent of the worker is this process
    monkeypatch.setattr(distributed, "_run_number", 0)


def start_worker(tmp_path: Path, program: str = WORKER) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **torchrun_variables(RANK="1", LOCAL_RANK="1", TMPDIR=str(tmp_path))},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_without_torchrun_there_is_one_rank() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)


def test_rank_variables_without_torchrun_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_worker_ranks_wait_for_training_and_for_the_end(launched: None, tmp_path: Path) -> None:
    worker = start_worker(tmp_path)
    with distributed.announce_rank_zero(tmp_path / "run"):
        distributed.signal_training_start()
        assert worker.stdout is not None
        assert worker.stdout.readline() == f"{tmp_path / 'run'} True\n"
        assert worker.poll() is None
    assert worker.communicate(timeout=30)[0] == "left\n"
    assert worker.returncode == 0


def test_worker_ranks_end_if_rank_0_does_not_train(
    launched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with distributed.announce_rank_zero(tmp_path / "old"):
        distributed.signal_training_start()  # its file must not be taken for one of the next run
    monkeypatch.setattr(distributed, "_run_number", 0)
    with distributed.announce_rank_zero(tmp_path / "run"):
        worker = start_worker(tmp_path)
    assert worker.communicate(timeout=30)[0] == f"{tmp_path / 'run'} False\nleft\n"


def test_a_worker_rank_that_is_first_ignores_files_of_an_earlier_launch(
    launched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container each torchrun has the same process number; here its start is not known."""
    monkeypatch.setattr(distributed, "_torchrun_start_time", str)
    with distributed.announce_rank_zero(tmp_path / "old"):
        distributed.signal_training_start()
    monkeypatch.setattr(distributed, "_run_number", 0)
    program = (
        "import tunesmith.distributed as r; r._torchrun_start_time = str; "
        "first = r._open_rendezvous(r._rendezvous_path())"
    )
    worker = start_worker(tmp_path, f"{program}; print(first, flush=True){WORKER}")
    assert worker.stdout is not None
    assert (
        worker.stdout.readline() == "None\n"
    )  # the file exists but is unlocked: the worker waits on
    with distributed.announce_rank_zero(tmp_path / "run"):
        distributed.signal_training_start()
        assert worker.stdout.readline() == f"{tmp_path / 'run'} True\n"
    assert worker.communicate(timeout=30)[0] == "left\n"


def test_launches_with_the_same_process_number_use_different_files(
    launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = distributed._rendezvous_path()
    assert distributed._rendezvous_path() == path
    monkeypatch.setattr(distributed, "_torchrun_start_time", lambda: "boot 17")
    assert distributed._rendezvous_path() != path


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system has no /proc")
def test_the_start_time_is_that_of_the_parent_process(launched: None) -> None:
    boot, ticks = distributed._torchrun_start_time().split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    age = uptime - int(ticks) / os.sysconf("SC_CLK_TCK")
    assert len(boot) == 36
    assert 0 <= age < uptime


def test_two_runs_of_one_script(launched: None, tmp_path: Path) -> None:
    check = "print(distributed._open_rendezvous(distributed._rendezvous_path()), flush=True)"
    worker = start_worker(tmp_path, f"{WORKER}{check}{WORKER}")
    assert worker.stdout is not None
    for name, expected in (("one", "left\nNone\n"), ("two", "left\n")):
        with distributed.announce_rank_zero(tmp_path / name):
            distributed.signal_training_start()
            assert worker.stdout.readline() == f"{tmp_path / name} True\n"
        assert "".join(worker.stdout.readline() for _ in expected.splitlines()) == expected
    assert worker.wait(timeout=30) == 0
    worker.stdout.close()


def test_signal_handlers_are_restored_after_an_error(launched: None, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in distributed.STOP_SIGNALS]
    with pytest.raises(KeyError), distributed.announce_rank_zero(tmp_path / "run"):
        raise KeyError
    assert [signal.getsignal(number) for number in distributed.STOP_SIGNALS] == before


def test_a_failed_command_ignores_signals_until_it_has_printed_the_error(
    launched: None,
) -> None:
    before = {number: signal.getsignal(number) for number in distributed.STOP_SIGNALS}
    try:
        with distributed.ignore_stop_signals_after_error():
            pass
        assert {number: signal.getsignal(number) for number in distributed.STOP_SIGNALS} == before
        with pytest.raises(KeyError), distributed.ignore_stop_signals_after_error():
            raise KeyError
        assert {signal.getsignal(number) for number in distributed.STOP_SIGNALS} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


FAILING_WORKER = """
import os, threading
from tunesmith import distributed
rank_zero = distributed.RankZero.find()
try:
    with rank_zero.exit_with_rank_zero():
        raise KeyError
except KeyError:
    print(threading.active_count(), os.path.exists(f"/dev/fd/{rank_zero._fd}"))
"""


def test_a_failed_worker_rank_leaves_no_thread_and_no_open_file(
    launched: None, tmp_path: Path
) -> None:
    """A script that continues after the error must not be ended by a thread."""
    with distributed.announce_rank_zero(tmp_path / "run"):
        worker = start_worker(tmp_path, FAILING_WORKER)
        assert worker.communicate(timeout=30)[0] == "1 False\n"


def test_a_worker_rank_gives_up_if_rank_0_does_not_start(launched: None) -> None:
    with pytest.raises(EnvironmentProblem, match="rank 0 did not begin a run within 0 seconds"):
        distributed.RankZero.find(timeout=0.0)


def test_several_machines_are_refused(
    launched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(UsageError, match="several machines"),
        distributed.announce_rank_zero(tmp_path),
    ):
        pass


def test_a_technique_without_data_parallel_is_refused(
    launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An offer that does not set ``data_parallel``, as those of third parties may."""
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


def test_a_process_that_does_not_own_the_run_only_reads_checkpoints(tmp_path: Path) -> None:
    owner = Checkpoints(tmp_path / "checkpoints")
    path = owner.save(1, lambda folder: (folder / "weights").write_text("x") and None)
    reader = Checkpoints(tmp_path / "checkpoints", owned=False, on_problem=lambda text: None)
    found = reader.newest()
    assert found is not None
    assert found.step == 1
    (path / "weights").write_text("y")
    assert reader.newest() is None
    assert path.is_dir()
    with pytest.raises(RuntimeError, match="only the process that holds the run"):
        reader.save(2, lambda folder: None)
    assert owner.steps() == [1]
