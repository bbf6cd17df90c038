"""Send the curves, intervals, verdict and model of a run to MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.offers import ReporterOffer
from tunesmith.storage import RunFolder
from tunesmith_evidence.tracking import (
    TrackedResults,
    TrackedRun,
    TrackerOptions,
    TrackerReporter,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATUS = {"ok": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
RUN_TAG = "tunesmith.run"
SQLITE = "sqlite:///"
MAX_ITEMS = 100
"""Most parameters or metrics of one call to MLflow."""


class MlflowOptions(TrackerOptions):
    """Options of ``[[reporters]] use = "mlflow"``."""

    uri: str = Field(
        "",
        description="Address of the MLflow server or database. Empty: MLFLOW_TRACKING_URI, or else "
        "sqlite:///mlflow.db in the working folder.",
    )
    experiment: str = Field("tunesmith", min_length=1, description="Name of the experiment.")
    log_model: bool = Field(False, description="Upload the trained model at the end of the run.")
    registered_model: str = Field(
        "",
        pattern=r"^[\w. -]*$",
        description="Register the trained model as a new version of this name, with the "
        "verdict as the tag `verdict`.",
    )


class MlflowTracker:
    """One MLflow run for each run; a resumed run continues it."""

    def __init__(self, options: MlflowOptions) -> None:
        self._options = options
        self._opened: MlflowClient | None = None
        self._run = ""

    def start(self, run: TrackedRun) -> Mapping[str, int]:
        """Create the run, or open the one of an earlier process."""
        from mlflow import MlflowClient  # takes seconds

        uri = self._options.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
        client = self._opened = MlflowClient(tracking_uri=uri)
        experiment = find_experiment(client, self._options.experiment, uri)
        found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            client.update_run(self._run, status="RUNNING")
            return read_last_steps(client, self._run)
        versions = {f"version.{name}": version for name, version in run.versions.items()}
        tags = {RUN_TAG: run.id, "tunesmith.folder": str(run.folder), **versions}
        created = client.create_run(experiment, tags=tags, run_name=run.name)
        self._run = created.info.run_id
        self._log_options(run.options)
        return {}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record each value as a metric."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        for first in range(0, len(metrics), MAX_ITEMS):
            self._client.log_batch(self._run, metrics=metrics[first : first + MAX_ITEMS])

    def finish(self, results: TrackedResults) -> None:
        """Record scores, tags and card, and register the model."""
        client, options = self._client, self._options
        self.log(results.values, 0)
        for name, text in results.tags.items():
            client.set_tag(self._run, name, text)
        client.set_tag(self._run, "mlflow.note.content", results.markdown)
        client.log_text(self._run, results.markdown, "card.md")
        client.log_text(self._run, results.svg, "card.svg")
        if results.artifact and (options.log_model or options.registered_model):
            client.log_artifacts(self._run, str(results.artifact), "model")
            if options.registered_model:
                self._register(options.registered_model, results.tags)
        client.set_terminated(self._run, STATUS[results.status])

    def close(self) -> None:
        """Do nothing: MLflow stores each call at once."""

    @property
    def _client(self) -> MlflowClient:
        assert self._opened is not None
        return self._opened

    def _log_options(self, options: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in options.items()]
        for first in range(0, len(params), MAX_ITEMS):
            self._client.log_batch(self._run, params=params[first : first + MAX_ITEMS])

    def _register(self, name: str, tags: Mapping[str, str]) -> None:
        client = self._client
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        if client.search_model_versions(f"name = '{name}' and run_id = '{self._run}'"):
            return  # sent again
        source = f"{client.get_run(self._run).info.artifact_uri}/model"
        client.create_model_version(name, source, self._run, tags=dict(tags))


def find_experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Return the id of an experiment, which is created if it does not exist.

    A local database gets its files beside it; a server decides itself.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = Path(uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts"
    return str(client.create_experiment(name, str(local) if uri.startswith(SQLITE) else None))


def read_last_steps(client: MlflowClient, run: str) -> dict[str, int]:
    """Return the last step of each metric of a run."""
    names = client.get_run(run).data.metrics
    return {name: max(m.step for m in client.get_metric_history(run, name)) for name in names}


def build(options: MlflowOptions, folder: RunFolder) -> TrackerReporter:
    """Create the reporter from its options."""
    return TrackerReporter(MlflowTracker(options), options, folder)


MLFLOW = ReporterOffer(
    name="mlflow",
    summary="curves, intervals, verdict and model, to MLflow",
    config=MlflowOptions,
    build=build,
)
