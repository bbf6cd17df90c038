"""Runs on a real Slurm, which is started here: submitted, preempted, cut off, cancelled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, find_missing, wait_until

pytestmark = [
    pytest.mark.skipif(bool(find_missing()), reason=find_missing() or "-"),
    pytest.mark.timeout(900),
]
WEIGHTS = Path("adapter", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


def tunesmith(cluster: Cluster, project: Path, *arguments: str) -> str:
    """Run a command and return what it prints on stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", *arguments],
        cwd=project,
        env=cluster.env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def submit(cluster: Cluster, project: Path, run: Path | str, *arguments: str) -> str:
    """Submit a run; return the number of its job."""
    printed = tunesmith(cluster, project, "slurm", "submit", str(run), "--json", *arguments)
    return str(json.loads(printed)["job"])


def events(run: Path, kind: str) -> Sequence[dict[str, Any]]:
    path = run / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    # The last line may not be complete yet.
    return [json.loads(line) for line in lines if f'"{kind}"' in line and line.endswith("}")]


def newest_step(run: Path) -> int:
    return max((event["step"] for event in events(run, "step-finished")), default=0)


def log(run: Path, job: str) -> str:
    path = run / "slurm" / f"{job}.log"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def wait_for_step(cluster: Cluster, run: Path, job: str, step: int) -> None:
    def has_come() -> bool:
        assert cluster.state(job) in ("PENDING", "CONFIGURING", "RUNNING"), log(run, job)[-4000:]
        return newest_step(run) >= step

    wait_until(has_come, f"step {step}")
    assert newest_step(run) < 160, "the run is too quick to be interrupted"


def wait_for_end(cluster: Cluster, run: Path, job: str) -> None:
    wait_until(
        lambda: cluster.state(job) not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"),
        "the end of the job",
        300,
    )
    assert cluster.state(job) == "COMPLETED", cluster.state(job) + log(run, job)[-4000:]


def restarts(cluster: Cluster, job: str) -> int:
    shown = cluster.call("scontrol", "show", "job", job)
    return int(shown.partition("Restarts=")[2].split()[0])


@pytest.fixture(scope="module")
def uninterrupted(cluster: Cluster, project: Path) -> Path:
    """The folder of a run that no one disturbed; its path needs quotes."""
    run = project / "runs" / 'it\'s 100% %j "quoted" $HOME'
    job = submit(cluster, project, "run.toml", "--out", str(run))
    wait_for_end(cluster, run, job)
    return run


def test_a_job_leaves_an_ordinary_run(cluster: Cluster, project: Path, uninterrupted: Path) -> None:
    run = str(uninterrupted)
    status = json.loads(tunesmith(cluster, project, "slurm", "status", run, "--json"))
    assert (status["state"], status["run"], status["step"]) == ("COMPLETED", "ok", status["steps"])
    report = json.loads(tunesmith(cluster, project, "report", run, "--json"))
    assert (report["run"]["status"], report["run"]["exit_code"]) == ("ok", 0)
    assert "\nfinished in " in tunesmith(cluster, project, "slurm", "logs", run)
    assert restarts(cluster, status["job"]) == 0


def assert_resumed(cluster: Cluster, run: Path, job: str, uninterrupted: Path) -> None:
    """The job was requeued once, lost at most what was not saved, and ended with the same bits."""
    assert restarts(cluster, job) == 1
    starts = events(run, "training-started")
    assert len(starts) == 2 and starts[1]["first_step"] > 0
    assert (run / WEIGHTS).read_bytes() == (uninterrupted / WEIGHTS).read_bytes()


def test_a_preempted_job_continues(cluster: Cluster, project: Path, uninterrupted: Path) -> None:
    """Slurm sends TERM to all its processes and requeues it; the job does not requeue itself."""
    run = project / "runs" / "preempted"
    job = submit(cluster, project, "run.toml", "--out", str(run))
    wait_for_step(cluster, run, job, 2)
    cluster.call("scontrol", "requeue", job)
    wait_for_end(cluster, run, job)
    assert "stopped by SIGTERM" in log(run, job) and "requeued job" not in log(run, job)
    assert_resumed(cluster, run, job, uninterrupted)
    # It stopped in order: no step was computed twice.
    steps = [event["step"] for event in events(run, "step-finished")]
    assert steps == sorted(set(steps))


def test_before_its_time_limit_a_job_requeues_itself(
    cluster: Cluster, project: Path, uninterrupted: Path
) -> None:
    """The signal is sent as Slurm sends it then: to the script alone."""
    run = project / "runs" / "limited"
    job = submit(cluster, project, "run.toml", "--out", str(run))
    wait_for_step(cluster, run, job, 2)
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    wait_for_end(cluster, run, job)
    assert f"requeued job {job}" in log(run, job)
    assert_resumed(cluster, run, job, uninterrupted)
    steps = [event["step"] for event in events(run, "step-finished")]
    assert steps == sorted(set(steps))


def test_a_job_whose_node_dies_continues_on_another(
    cluster: Cluster, project: Path, uninterrupted: Path
) -> None:
    run = project / "runs" / "cut off"
    job = submit(cluster, project, "run.toml", "--out", str(run))
    wait_for_step(cluster, run, job, 12)
    node = cluster.node_of(job)
    cluster.kill_node(node, job)
    try:
        wait_until(lambda: cluster.state(job) == "PENDING", "the queue")
        wait_for_end(cluster, run, job)
        assert cluster.node_of(job) != node
        assert_resumed(cluster, run, job, uninterrupted)
    finally:
        cluster.start_node(node)
        wait_until(lambda: cluster.call("sinfo", "-h", "-o", "%T").strip() == "idle", "nodes")


def test_a_cancelled_job_stays_away_and_its_run_can_be_submitted_again(
    cluster: Cluster, project: Path, uninterrupted: Path
) -> None:
    run = project / "runs" / "cancelled"
    job = submit(cluster, project, "run.toml", "--out", str(run))
    wait_for_step(cluster, run, job, 2)
    tunesmith(cluster, project, "slurm", "cancel", str(run))
    wait_until(lambda: cluster.state(job) == "CANCELLED", "the end of the job")
    wait_until(lambda: events(run, "run-finished"), "the end of the run")
    status = json.loads(tunesmith(cluster, project, "slurm", "status", str(run), "--json"))
    assert (status["state"], status["is_active"]) == ("CANCELLED", False)
    assert status["run"] == "stopped" and restarts(cluster, job) == 0
    again = submit(cluster, project, run)
    assert again != job
    wait_for_end(cluster, run, again)
    assert len(events(run, "training-started")) == 2
    assert (run / WEIGHTS).read_bytes() == (uninterrupted / WEIGHTS).read_bytes()


@pytest.mark.parametrize("how", ["limit", "preempted"])
def test_several_processes_stop_and_continue_together(
    cluster: Cluster, project: Path, uninterrupted: Path, how: str
) -> None:
    """torchrun must not end rank 0 with a second signal while that saves its checkpoint."""
    run = project / "runs" / f"two-{how}"
    job = submit(cluster, project, "run.toml", "--out", str(run), "--processes", "2")
    wait_for_step(cluster, run, job, 2)
    if how == "limit":
        cluster.call("scancel", "--batch", "--signal=USR1", job)
    else:
        cluster.call("scontrol", "requeue", job)
    wait_for_end(cluster, run, job)
    assert restarts(cluster, job) == 1
    steps = [event["step"] for event in events(run, "step-finished")]
    assert steps == sorted(set(steps)) and steps[-1] == newest_step(uninterrupted)
    assert {e["processes"] for e in events(run, "training-started") if "processes" in e} <= {2}
