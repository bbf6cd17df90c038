"""A sweep as jobs of a real Slurm, which is started here as the tests of tunesmith-slurm do."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SIBLING = Path(__file__).parents[2] / "tunesmith-slurm"


def load_cluster() -> ModuleType:
    """Import the cluster of the tests of tunesmith-slurm."""
    spec = importlib.util.spec_from_file_location(
        "slurm_test_cluster", SIBLING / "tests" / "cluster.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


def find_missing() -> str:
    """Return why no sweep can be submitted here; "" if one can."""
    if importlib.util.find_spec("tunesmith_slurm") is None or not SIBLING.is_dir():
        return "not installed: tunesmith-slurm"
    return str(load_cluster().find_missing())


MISSING = find_missing()
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "-"),
    pytest.mark.timeout(900),
]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = load_cluster().Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def project(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder with a run file of 70 steps or more, and its rows."""
    from tunesmith_torch.testing.tiny_project import write_project

    table = '[slurm]\nmem = "1G"\ntime = 30\ncpus_per_task = 1\n'
    write_project(tmp_path, tiny_model, epochs=6, every=5, tables=table)
    return tmp_path


def read_events(trial: Path, kind: str) -> list[dict[str, Any]]:
    path = trial / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    # The last line may not be complete yet.
    return [json.loads(line) for line in lines if f'"{kind}"' in line and line.endswith("}")]


def job_of(trial: Path) -> str:
    return str(json.loads((trial / "slurm" / "job.json").read_text(encoding="utf-8"))["job"])


def start(cluster: Any, project: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "tunesmith", "tune", *arguments]
    return subprocess.Popen(
        command, cwd=project, env={**cluster.env(), "NO_COLOR": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_sweep_survives_a_preempted_job_and_its_own_end(cluster: Any, project: Path) -> None:
    """Six trials, two at a time: one is preempted, and the search is killed and continued."""
    study = project / "study"
    search = start(
        cluster, project, "run.toml", "--on", "slurm", "--trials", "6", "--parallel", "2",
        "--search", "technique.learning_rate=1e-4:1e-2:log",
        "--search", "technique.adapter.rank=4,8", "--pruner", "none", "--out", str(study),
    )  # fmt: skip
    wait_until = load_cluster().wait_until
    try:
        victim = study / "trial-001"

        def has_begun() -> bool:
            assert search.poll() is None, search.communicate()
            return len(read_events(victim, "step-finished")) >= 2

        wait_until(has_begun, "two steps of the second trial", 300)
        job = job_of(victim)
        cluster.call("scontrol", "requeue", job)
        wait_until(lambda: read_events(victim, "run-finished"), "the end of its first start")
        assert read_events(victim, "run-finished")[0]["status"] == "stopped"
        search.kill()
    finally:
        search.kill()
        search.communicate()
    again = start(cluster, project, str(study), "--json")
    printed, errors = again.communicate(timeout=800)
    assert again.returncode == 0, errors[-4000:]
    found = json.loads(printed)
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 6, errors[-4000:]
    assert len({json.dumps(trial["options"]) for trial in found["trials"]}) == 6
    # The job is the same one: it was followed, and not submitted again.
    assert job_of(victim) == job
    shown = cluster.call("scontrol", "show", "job", job)
    assert "Restarts=1" in shown, shown
    starts = read_events(victim, "training-started")
    assert len(starts) == 2 and starts[1]["first_step"] > 0
    jobs = {job_of(study / f"trial-{number:03d}") for number in range(6)}
    assert len(jobs) == 6
    assert "trial 1 continues" in errors and (study / "best.toml").is_file()


def test_a_worse_job_is_cancelled(cluster: Any, project: Path) -> None:
    """With a learning rate of zero nothing is learned, which the validation losses show."""
    search = start(
        cluster, project, "run.toml", "--on", "slurm", "--trials", "4", "--json",
        "--search", "technique.learning_rate=1e-2,9e-3,8e-3,1e-7",
        "--set", "technique.validation.every=6", "--set", "technique.epochs=10",
        "--seed", "1", "--out", "study",
    )  # fmt: skip
    printed, errors = search.communicate(timeout=800)
    assert search.returncode == 0, errors[-4000:]
    found = json.loads(printed)
    states = {t["options"]["technique.learning_rate"]: t["state"] for t in found["trials"]}
    pruned = [trial for trial in found["trials"] if trial["state"] == "pruned"]
    assert pruned and all(trial["options"]["technique.learning_rate"] < 1e-6 for trial in pruned)
    trial = project / "study" / f"trial-{pruned[0]['number']:03d}"
    assert cluster.state(job_of(trial)) in ("CANCELLED", "COMPLETING", "COMPLETED"), states
    assert "its validation loss, " in pruned[0]["reason"]
