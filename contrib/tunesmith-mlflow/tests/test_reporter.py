"""MLflow's own client finds what a run reported, also after faults and a resume."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import tunesmith
from tunesmith.errors import EnvironmentProblem
from tunesmith.events import (
    Event,
    Measured,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
)
from tunesmith.storage import RunFolder
from tunesmith.testing import full_disk, sample_event, sample_run, send_events
from tunesmith_mlflow import reporter
from tunesmith_mlflow.reporter import MlflowOptions

README = Path(__file__).parents[1] / "README.md"
SECRET = "hf_" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3b"


def read(database: Path, experiment: str = "tunesmith") -> tuple[MlflowClient, Run]:
    """Return a client and the only run of an experiment."""
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    return client, run


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The content of a new database, which takes seconds to create."""
    database = tmp_path_factory.mktemp("empty") / "runs.db"
    MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()
    return database.read_bytes()


@pytest.fixture
def database(empty: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "runs.db"
    path.write_bytes(empty)
    return path


def send(database: Path, run: Path, events: Iterable[Event], **options: str) -> list[str]:
    """Send events like a run does; return the problems that became warnings."""
    run.mkdir(exist_ok=True)
    read_options = MlflowOptions.model_validate(
        {"uri": f"sqlite:///{database}", "wait": 20, **options}
    )
    return send_events(lambda: reporter.build(read_options, RunFolder(run)), events)


def test_the_readme_runs_and_its_database_is_read_back(
    readme_run_file: Path, tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database.rename("mlflow.db")
    options = {"technique.max_steps": 4, "baselines.use": ["majority"]}
    run = tunesmith.run(readme_run_file, set=options)
    assert not [f.message for f in run.report.findings if "mlflow" in f.message]
    client, stored = read(tmp_path / "mlflow.db", "tickets")
    history = client.get_metric_history(stored.info.run_id, "train/loss")
    assert {m.step: m.value for m in history} == {s.step: s.loss for s in run.report.steps_of("")}
    verdict = run.report.verdict
    assert stored.data.tags["verdict"] == verdict["word"] and stored.info.status == "FINISHED"
    assert stored.data.params["technique.use"] == "lora"
    assert verdict["comparisons"]
    for name, found in verdict["comparisons"].items():
        prefix = f"paired/{verdict['metric']}/tuned-minus-{name}"
        for part in ("difference", "low", "high", "n"):
            assert stored.data.metrics[f"{prefix}/{part}"] == found[part]
    for measured in run.report.tuned:
        label = run.report.metric_label(measured.evaluator, measured.metric)
        assert stored.data.metrics[f"test/{label}/tuned/low"] == measured.low
    (version,) = client.search_model_versions("name = 'tickets'")
    assert version.tags["verdict"] == verdict["word"]
    model = client.download_artifacts(stored.info.run_id, "model", str(tmp_path))
    weights = [path.name for path in Path(model).glob("*.safetensors")]
    assert weights == ["adapter_model.safetensors"]
    card = client.download_artifacts(stored.info.run_id, "card.svg", str(tmp_path))
    assert verdict["word"] in Path(card).read_text()


def test_a_resumed_run_continues_its_run(database: Path, tmp_path: Path) -> None:
    """Sent twice, it has each step, and each version of its model, once."""

    def steps(*numbers: int) -> list[Event]:
        return [sample_event(StepFinished, step=n, loss=1 / n, metrics={}) for n in numbers]

    many = {f"option{n}": "x" * 9999 for n in range(150)}
    started = sample_event(RunStarted, plan={"url": f"https://x/?t={SECRET}", **many})
    folder = tmp_path / "it's a run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights").write_text("1")
    state = random.getstate()
    assert not send(database, folder, [started, *steps(1, 2, 3)])
    client, stored = read(database)
    assert stored.info.status == "RUNNING" and len(stored.data.params) == 151
    rest = [*steps(3, 4), sample_event(TrainingFinished)]
    rest += [sample_event(Measured), sample_event(RunFinished)]
    again = [replace(started, resumed=True), *rest]
    for _ in range(2):
        assert not send(database, folder, again, registered_model="tickets")
    assert random.getstate() == state, "it draws random numbers of the run"
    client, stored = read(database)
    history = client.get_metric_history(stored.info.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4]
    assert len(client.get_metric_history(stored.info.run_id, "test/sample/tuned/value")) == 1
    assert stored.info.status == "FINISHED" and stored.info.run_name == "sample"
    assert len(client.search_model_versions("name = 'tickets'")) == 1
    assert SECRET.encode() not in database.read_bytes()


@pytest.mark.parametrize(("status", "stored"), [("failed", "FAILED"), ("stopped", "KILLED")])
def test_the_status_is_that_of_the_run(
    status: str, stored: str, database: Path, tmp_path: Path
) -> None:
    assert not send(database, tmp_path / "run", sample_run(status=status))
    assert read(database)[1].info.status == stored


def test_a_full_disk_becomes_a_warning(database: Path, tmp_path: Path) -> None:
    with full_disk(database.stat().st_size + 20_000):
        problems = send(database, tmp_path / "run", sample_run(steps=300))
    assert problems and "disk" in problems[0].lower()
    _, stored = read(database)
    assert stored.data.metrics["train/loss"], "what was written before is lost"


def test_a_server_that_is_not_there_becomes_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    options = MlflowOptions.model_validate({"uri": "http://127.0.0.1:9", "wait": 20})
    started = sample_event(RunStarted)
    with (
        pytest.raises(EnvironmentProblem, match=r"refused|Max retries"),
        reporter.build(options, RunFolder(tmp_path)) as opened,
    ):
        opened.report(started)


def test_a_server_that_hangs_does_not_delay_the_run(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        options = MlflowOptions.model_validate({"uri": address, "wait": 1})
        before = time.perf_counter()
        with (
            pytest.raises(EnvironmentProblem, match="does not respond"),
            reporter.build(options, RunFolder(tmp_path)) as opened,
        ):
            for event in sample_run(steps=100):
                opened.report(event)
        assert time.perf_counter() - before < 4
