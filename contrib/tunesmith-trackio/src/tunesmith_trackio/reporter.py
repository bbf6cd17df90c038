"""Write the curves, intervals and verdict of a run to trackio's database.

The reporter writes to the storage itself. ``trackio.init`` would print to the terminal, log the use
of the GPU, and hide errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tunesmith.offers import ReporterOffer
from tunesmith.storage import RunFolder
from tunesmith_evidence.tracking import (
    TrackedResults,
    TrackedRun,
    TrackerOptions,
    TrackerReporter,
)

NOT_METRICS = ("step", "timestamp")


class TrackioOptions(TrackerOptions):
    """Options of ``[[reporters]] use = "trackio"``."""

    project: str = Field(
        "tunesmith", pattern=r"^\w[\w-]*$", description="Name of the project in trackio."
    )


class TrackioTracker:
    """One run of trackio for each run; a resumed run continues it."""

    def __init__(self, options: TrackioOptions) -> None:
        self._project = options.project
        self._run: TrackedRun | None = None
        self._config: dict[str, Any] = {}

    def start(self, run: TrackedRun) -> Mapping[str, int]:
        """Return the last step of each metric of the run; the first values create the run."""
        from trackio.sqlite_storage import SQLiteStorage  # takes seconds

        self._run = run
        self._config = {**run.options, **{f"version.{k}": v for k, v in run.versions.items()}}
        known: dict[str, int] = {}
        for row in SQLiteStorage.get_logs(self._project, run.name, run_id=run.id):
            for name in row.keys() - NOT_METRICS:
                known[name] = max(row["step"], known.get(name, 0))
        if not known:
            self._write({}, 0, self._config)
        return known

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the values of a step."""
        self._write(values, step)

    def finish(self, results: TrackedResults) -> None:
        """Write scores and the card as values, and the verdict into the configuration."""
        from trackio import Markdown

        card = {"_type": Markdown.TYPE, "_value": results.markdown}
        self._write({**results.values, "card": card}, 0, {**self._config, **results.tags})

    def close(self) -> None:
        """Do nothing: each value is stored at once."""

    def _write(
        self, values: Mapping[str, Any], step: int, config: dict[str, Any] | None = None
    ) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        assert self._run is not None
        SQLiteStorage.bulk_log(
            self._project,
            self._run.name,
            [dict(values)],
            steps=[step],
            config=config,
            run_id=self._run.id,
        )


def build(options: TrackioOptions, folder: RunFolder) -> TrackerReporter:
    """Create the reporter from its options."""
    return TrackerReporter(TrackioTracker(options), options, folder)


TRACKIO = ReporterOffer(
    name="trackio",
    summary="curves, intervals and verdict in the local database of trackio",
    config=TrackioOptions,
    build=build,
)
