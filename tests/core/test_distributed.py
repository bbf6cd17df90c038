"""The rendezvous of ranks, without training: tests/faults trains with several ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tunesmith import api, distributed, signals
from tunesmith.distributed import Launch
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.offers import TechniqueOffer
from tunesmith.options import Options
from tunesmith.plan import Plan
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
def launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Launch:
    """This process is rank 0, and torchrun for the workers that it starts."""
    for name, value in torchrun_variables().items():
        monkeypatch.setenv(name, value)
    return replace(Launch.of_process(os.getpid()), folder=tmp_path)


def start_worker(
    tmp_path: Path, program: str = WORKER, changes: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    variables = {"RANK": "1", "LOCAL_RANK": "1", "TMPDIR": str(tmp_path), **(changes or {})}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **torchrun_variables(**variables)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def test_without_torchrun_there_is_one_rank() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)


def test_rank_variables_without_torchrun_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_worker_ranks_wait_for_training_and_for_the_end(launch: Launch, tmp_path: Path) -> None:
    worker = start_worker(tmp_path)
    with distributed.announce_rank_zero(tmp_path / "run", launch):
        distributed.signal_training_start(launch)
        assert worker.stdout is not None
        assert worker.stdout.readline() == f"{tmp_path / 'run'} True\n"
        assert worker.poll() is None
    assert worker.communicate(timeout=30)[0] == "left\n"
    assert worker.returncode == 0


def test_worker_ranks_end_if_rank_0_does_not_train(launch: Launch, tmp_path: Path) -> None:
    with distributed.announce_rank_zero(tmp_path / "old", launch):
        distributed.signal_training_start(
            launch
        )  # its file must not be taken for one of the next run
    launch.run_number = 0
    with distributed.announce_rank_zero(tmp_path / "run", launch):
        worker = start_worker(tmp_path)
    assert worker.communicate(timeout=30)[0] == f"{tmp_path / 'run'} False\nleft\n"


UNKNOWN_START = """
import os
from dataclasses import replace
from tunesmith import distributed
launch = replace(distributed.current_launch(), started="")
print(distributed.open_rendezvous(launch.rendezvous_path(), start_is_known=False), flush=True)
"""


def test_a_worker_rank_that_is_first_ignores_files_of_an_earlier_launch(
    launch: Launch, tmp_path: Path
) -> None:
    """In a container each torchrun has the same process number; here its start is not known."""
    launch.started = ""
    with distributed.announce_rank_zero(tmp_path / "old", launch):
        distributed.signal_training_start(launch)
    launch.run_number = 0
    waiting = WORKER.replace("find()", "find(launch=launch)")
    worker = start_worker(tmp_path, f"{UNKNOWN_START}{waiting}")
    assert worker.stdout is not None
    # The file exists but is unlocked: the worker waits on.
    assert worker.stdout.readline() == "None\n"
    with distributed.announce_rank_zero(tmp_path / "run", launch):
        distributed.signal_training_start(launch)
        assert worker.stdout.readline() == f"{tmp_path / 'run'} True\n"
    assert worker.communicate(timeout=30)[0] == "left\n"


def test_launches_with_the_same_process_number_use_different_files(launch: Launch) -> None:
    path = launch.rendezvous_path()
    assert replace(launch).rendezvous_path() == path
    assert replace(launch, started="boot 17").rendezvous_path() != path


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system has no /proc")
def test_the_launch_is_identified_by_the_parent_process() -> None:
    launch = distributed.current_launch()
    assert launch.process == os.getppid()
    boot, container, ticks = launch.started.split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    age = uptime - int(ticks) / os.sysconf("SC_CLK_TCK")
    assert len(boot) == 36
    assert container == os.readlink("/proc/self/ns/pid")
    assert 0 <= age < uptime


def test_two_runs_of_one_script(launch: Launch, tmp_path: Path) -> None:
    check = (
        "path = distributed.current_launch().rendezvous_path()\n"
        "print(distributed.open_rendezvous(path, start_is_known=True), flush=True)\n"
    )
    worker = start_worker(tmp_path, f"{WORKER}{check}{WORKER}")
    assert worker.stdout is not None
    for name, expected in (("one", "left\nNone\n"), ("two", "left\n")):
        with distributed.announce_rank_zero(tmp_path / name, launch):
            distributed.signal_training_start(launch)
            assert worker.stdout.readline() == f"{tmp_path / name} True\n"
        assert "".join(worker.stdout.readline() for _ in expected.splitlines()) == expected
    assert worker.wait(timeout=30) == 0
    worker.stdout.close()


def test_signal_handlers_are_restored_after_an_error(launch: Launch, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in signals.STOP_SIGNALS]
    with pytest.raises(KeyError), distributed.announce_rank_zero(tmp_path / "run", launch):
        raise KeyError
    assert [signal.getsignal(number) for number in signals.STOP_SIGNALS] == before


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
    launch: Launch, tmp_path: Path
) -> None:
    """A script that continues after the error must not be ended by a thread."""
    with distributed.announce_rank_zero(tmp_path / "run", launch):
        worker = start_worker(tmp_path, FAILING_WORKER)
        assert worker.communicate(timeout=30)[0] == "1 False\n"


RANK_ZERO = """
import os, signal, sys
from pathlib import Path
from tunesmith import distributed
from tunesmith.errors import DataError, RunStopped
with distributed.announce_rank_zero(Path("run")):
    for line in sys.stdin:
        exec(line)
"""


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize(
    ("end", "is_failure"),
    [
        ("", False),
        ("raise RunStopped('time')", False),
        ("raise DataError('rows', 'none')", True),
        ("os.kill(os.getpid(), signal.SIGKILL)", True),
    ],
)
def test_a_worker_rank_of_another_machine_fails_if_rank_0_does(
    tmp_path: Path, end: str, is_failure: bool, trains: bool
) -> None:
    """Otherwise its torchrun would not start it again, and that of rank 0 would wait for it."""
    machine = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", distributed.SHARED_FOLDER: str(tmp_path)}
    rank_zero = subprocess.Popen(
        [sys.executable, "-c", RANK_ZERO],
        env={**os.environ, **torchrun_variables(**machine)},
        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    worker = start_worker(
        tmp_path, WORKER.replace("with ", "print(1, flush=True)\nwith ", 1), machine
    )
    assert worker.stdout is not None
    assert rank_zero.stdin is not None
    worker.stdout.readline()
    if trains:
        print("distributed.signal_training_start()", file=rank_zero.stdin, flush=True)
        worker.stdout.readline()
    rank_zero.communicate(f"{end}\n", timeout=30)
    worker.communicate(timeout=30)
    assert worker.returncode == int(is_failure)


def test_a_worker_rank_gives_up_if_rank_0_does_not_start(launch: Launch) -> None:
    with pytest.raises(EnvironmentProblem, match="rank 0 did not start a run within 0 seconds"):
        distributed.RankZero.find(timeout=0.0, launch=launch)


def test_several_machines_need_a_folder_to_meet_in(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv(distributed.SHARED_FOLDER, raising=False)
    with (
        pytest.raises(UsageError, match="several machines need a shared folder"),
        distributed.announce_rank_zero(tmp_path, launch),
    ):
        pass


def test_ranks_of_several_machines_meet_in_the_shared_folder(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each machine has a torchrun with a number and a count of restarts of its own."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv(distributed.SHARED_FOLDER, str(tmp_path))
    paths = []
    for process, restarts in ((17, "0"), (23, "1")):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        made = Launch.of_process(process)
        assert not made.started  # an unlocked file may be of an earlier start
        paths.append(made.rendezvous_path())
    assert paths[0] == paths[1]
    assert paths[0].is_relative_to(tmp_path)


def test_ranks_of_one_machine_with_several_parents_meet_in_the_shared_folder(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As workers of Ray do; and the ranks of another machine in the same folder are not met."""
    monkeypatch.setenv(distributed.SHARED_FOLDER, str(tmp_path))
    assert not distributed.has_several_machines()
    found = [Launch.of_process(process).rendezvous_path() for process in (17, 23)]
    assert found[0] == found[1] and found[0].is_relative_to(tmp_path)
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(nodename="another"))
    assert Launch.of_process(17).rendezvous_path() != found[0]


def test_a_technique_without_data_parallel_is_refused(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
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
    plan.single_process_part = Plan.single_process_part.__get__(plan)
    with pytest.raises(
        UsageError, match="solo: does not support several processes, but torchrun started 2"
    ):
        api.require_runnable(plan)


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
