"""Runs on a real Ray of three nodes: undisturbed, with a lost machine or process, cancelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cluster import ThreeNodes, find_ranks, wait_until

from tunesmith_ray.job_file import find_job, request_cancel

pytestmark = pytest.mark.timeout(1200)
WEIGHTS = Path("adapter", "adapter_model.safetensors")
TWO = ("--workers", "2")


@pytest.fixture(scope="module")
def nodes() -> Iterator[ThreeNodes]:
    running = ThreeNodes()
    try:
        yield running
    finally:
        running.stop()


def start(nodes: ThreeNodes, project: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command in the folder of the project."""
    return subprocess.Popen(
        [sys.executable, "-m", "tunesmith", "ray", *arguments],
        cwd=project,
        env={**os.environ, "RAY_ADDRESS": nodes.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(nodes: ThreeNodes, project: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command; return what it prints on stdout and stderr."""
    process = start(nodes, project, *arguments)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, out[-2000:] + err[-4000:]
    return out, err


def events(run: Path, kind: str) -> Sequence[dict[str, Any]]:
    path = run / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    # The last line may not be complete yet.
    return [json.loads(line) for line in lines if f'"{kind}"' in line and line.endswith("}")]


def wait_for_step(run: Path, step: int) -> None:
    def has_come() -> bool:
        job = find_job(run) if run.is_dir() else None
        assert job is None or job.is_active, job
        return max((event["step"] for event in events(run, "step-finished")), default=0) >= step

    wait_until(has_come, f"step {step}")


def wait_for_end(run: Path) -> None:
    wait_until(lambda: not find_job(run).is_active, "the end of the run", 400)  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def undisturbed(nodes: ThreeNodes, project: Path) -> Path:
    """The folder of a run of two workers that nothing has disturbed; its path needs quotes."""
    run = project / "runs" / "it's undisturbed"
    out, err = call(nodes, project, "submit", "run.toml", "--out", str(run), *TWO, "--json")
    assert json.loads(out)["run"]["status"] == "ok"
    assert "running on" in err and "training finished: 40 steps" in err
    return run


def test_the_run_is_an_ordinary_one_of_two_processes(
    nodes: ThreeNodes, project: Path, undisturbed: Path
) -> None:
    status = json.loads(call(nodes, project, "status", str(undisturbed), "--json")[0])
    assert (status["state"], status["exit_code"], status["starts"]) == ("finished", 0, 1)
    assert (status["run"], status["step"], len(status["hosts"])) == ("ok", 40, 2)
    logs = call(nodes, project, "logs", str(undisturbed), "--rank", "1", "--lines", "5")[0]
    assert "error" not in logs
    assert find_job(undisturbed).starts == 1  # type: ignore[union-attr]


SUPERVISOR = """
import sys, time
from tunesmith_ray import cluster
with cluster.connect(sys.argv[1]):
    deadline = time.monotonic() + 30
    while cluster.find_supervisor(sys.argv[2]) and time.monotonic() < deadline:
        time.sleep(0.1)
    print("gone" if cluster.find_supervisor(sys.argv[2]) is None else "still there")
"""


def test_its_supervisor_ends_with_it(nodes: ThreeNodes, undisturbed: Path) -> None:
    job = find_job(undisturbed)
    assert job is not None
    command = [sys.executable, "-P", "-c", SUPERVISOR, nodes.address, job.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "gone\n", done.stderr


def assert_nothing_was_lost(run: Path, undisturbed: Path, committed: int) -> None:
    """The second start went on at the newest checkpoint, and ended with the same bits."""
    job = find_job(run)
    assert job is not None and (job.state, job.starts) == ("finished", 2)
    first, second = events(run, "training-started")
    assert first["first_step"] == 0 and second["first_step"] >= committed > 0
    assert (run / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()
    losses = {event["step"]: event["loss"] for event in events(run, "step-finished")}
    assert losses == {e["step"]: e["loss"] for e in events(undisturbed, "step-finished")}


def newest_checkpoint(run: Path) -> int:
    return int(max(event["step"] for event in events(run, "checkpoint-saved")))


def test_a_machine_that_is_killed_and_replaced_loses_no_checkpoint(
    nodes: ThreeNodes, project: Path, undisturbed: Path
) -> None:
    run = project / "runs" / "lost machine"
    submit = start(
        nodes, project, "submit", "run.toml", "--out", str(run), *TWO,
        "--set", "ray.placement=strict_spread",
    )  # fmt: skip
    wait_for_step(run, 12)
    committed = newest_checkpoint(run)
    nodes.replace_machine()
    out, err = submit.communicate(timeout=600)
    assert submit.returncode == 0, out[-2000:] + err[-4000:]
    assert "its worker was lost: start 2" in err and "ok" in out
    assert_nothing_was_lost(run, undisturbed, committed)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_costs_the_steps_since_the_checkpoint(
    nodes: ThreeNodes, project: Path, undisturbed: Path, rank: int
) -> None:
    run = project / "runs" / f"killed-{rank}"
    call(nodes, project, "submit", "run.toml", "--out", str(run), *TWO, "--detach")
    wait_for_step(run, 12)
    committed = newest_checkpoint(run)
    os.kill(find_ranks(run)[rank], signal.SIGKILL)
    wait_for_end(run)
    assert_nothing_was_lost(run, undisturbed, committed)


def test_a_lost_worker_leaves_no_process_behind(
    nodes: ThreeNodes, project: Path, undisturbed: Path
) -> None:
    """The actors of Ray are killed, and not their processes."""
    run = project / "runs" / "lost worker"
    call(nodes, project, "submit", "run.toml", "--out", str(run), *TWO, "--detach")
    wait_for_step(run, 12)
    committed = newest_checkpoint(run)
    process = find_ranks(run)[0]
    os.kill(find_actor(process), signal.SIGKILL)
    wait_until(lambda: process not in find_ranks(run).values(), "the end of rank 0", 20)
    wait_for_end(run)
    assert_nothing_was_lost(run, undisturbed, committed)


LONG = ("--set", "technique.epochs=200")
"""1,600 steps: a command that is called meanwhile takes as long as dozens of them."""


def test_ctrl_c_stops_the_run_with_a_checkpoint(nodes: ThreeNodes, project: Path) -> None:
    run = project / "runs" / "interrupted"
    submit = start(nodes, project, "submit", "run.toml", "--out", str(run), *TWO, *LONG)
    wait_for_step(run, 7)
    submit.send_signal(signal.SIGINT)
    out, err = submit.communicate(timeout=300)
    assert submit.returncode == 143, out[-2000:] + err[-4000:]
    assert "Stopping after the current step" in err and "tunesmith ray submit" in err
    assert newest_checkpoint(run) >= 7


def find_actor(process: int) -> int:
    """Return the actor that has started a process of a run."""
    status = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    return int(status[1])


def read_variables(process: int) -> dict[str, str]:
    items = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
    return dict(item.split("=", 1) for item in items if "=" in item)


def test_a_run_is_cancelled_and_another_cluster_refused(nodes: ThreeNodes, project: Path) -> None:
    """While it trains; and its two workers, here on one machine, know of each other."""
    run = project / "runs" / "cancelled"
    call(nodes, project, "submit", "run.toml", "--out", str(run), *TWO, *LONG, "--detach")
    wait_for_step(run, 7)
    sizes = [read_variables(each)["LOCAL_WORLD_SIZE"] for each in find_ranks(run).values()]
    assert sizes == ["2", "2"]
    before = find_job(run)
    err = call(nodes, project, "submit", str(run), "--address", "local", "--cpus", "1", code=2)[1]
    assert "the run is on another cluster" in err and find_job(run).name == before.name  # type: ignore[union-attr]
    assert "stops after its current step" in call(nodes, project, "cancel", str(run))[0]
    wait_for_end(run)
    job = find_job(run)
    assert job is not None and (job.state, job.exit_code, job.starts) == ("stopped", 143, 1)
    newest, steps = newest_checkpoint(run), events(run, "step-finished")
    assert 7 <= newest == steps[-1]["step"] < 1600


def find_supervisor(run: Path) -> int:
    """Return the process of the supervisor: only it is in the folder of no worker."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::Supervisor" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    (supervisor,) = found
    return supervisor


def test_a_supervisor_that_is_lost_after_a_cancel_does_not_start_the_run_again(
    nodes: ThreeNodes, project: Path
) -> None:
    run = project / "runs" / "forgotten"
    call(nodes, project, "submit", "run.toml", "--out", str(run), *TWO, *LONG, "--detach")
    wait_for_step(run, 7)
    supervisor = find_supervisor(run)
    os.kill(supervisor, signal.SIGSTOP)  # it cannot act on what comes next
    request_cancel(run, find_job(run).name)  # type: ignore[union-attr]
    os.kill(supervisor, signal.SIGKILL)
    wait_for_end(run)
    job = find_job(run)
    assert job is not None and (job.state, job.starts) == ("stopped", 1)
    wait_until(lambda: not find_ranks(run), "the end of its processes", 30)


def test_a_failed_run_has_its_exit_code_and_the_log_of_the_process(
    nodes: ThreeNodes, project: Path
) -> None:
    """The rows are gone when the second start reads them: that is no reason to start again."""
    run = project / "runs" / "failed"
    rows = project / "other.jsonl"
    rows.write_text((project / "rows.jsonl").read_text())
    call(nodes, project, "submit", "run.toml", "--out", str(run), "--set", f"data.train={rows}",
         "--workers", "1", "--set", "run.max_minutes=0.0001", code=75)  # fmt: skip
    rows.write_text("{\n")
    err = call(nodes, project, "submit", str(run), "--workers", "1", code=3)[1]
    assert "run failed: rank 0: exit code 3" in err and "other.jsonl" in err
    assert "continue the run" in err


def test_a_run_that_waits_for_machines_can_be_cancelled(nodes: ThreeNodes, project: Path) -> None:
    run = project / "runs" / "waiting"
    err = call(
        nodes, project, "submit", "run.toml", "--out", str(run), "--workers", "5", "--detach"
    )[1]
    assert "5 CPU" in err and "waits for more machines" in err
    wait_until(lambda: find_job(run).state == "waiting", "the queue")  # type: ignore[union-attr]
    assert "state:      waiting" in call(nodes, project, "status", str(run))[0]
    call(nodes, project, "cancel", str(run))
    wait_for_end(run)
    assert find_job(run).state == "stopped"  # type: ignore[union-attr]
    assert not (run / "events.jsonl").exists()


def test_no_cluster_is_an_error_with_a_hint(project: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tunesmith", "ray", "submit", "run.toml"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run"), "--address", "127.0.0.1:1"],
        cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4 and "ray start --head" in done.stderr
    assert not (tmp_path / "run").exists()
