"""Write the curves, intervals and verdict of a run as event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.offers import ReporterOffer
from tunesmith.options import DataPath
from tunesmith.storage import RunFolder
from tunesmith_evidence.tracking import (
    TrackedResults,
    TrackedRun,
    TrackerOptions,
    TrackerReporter,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class TensorboardOptions(TrackerOptions):
    """Options of ``[[reporters]] use = "tensorboard"``."""

    folder: DataPath = Field(
        "tensorboard",
        description="Folder for `tensorboard --logdir`. Each run has its own folder below it.",
    )


class TensorboardTracker:
    """One folder of event files for each run; a resumed run adds a file."""

    def __init__(self, options: TensorboardOptions) -> None:
        self._folder = Path(options.folder)
        self._writer: SummaryWriter | None = None

    def start(self, run: TrackedRun) -> Mapping[str, int]:
        """Open an event file; on the first one, record the options of the run."""
        from torch.utils.tensorboard.writer import SummaryWriter  # torch takes seconds

        folder = self._folder / run.id
        known = read_last_steps(folder) if folder.is_dir() else {}
        self._writer = SummaryWriter(str(folder))
        if not known:
            rows = [f"| {key} | {escape(value)} |" for key, value in run.options.items()]
            self._writer.add_text("options", "\n".join(["| option | value |", "|---|---|", *rows]))
            self._writer.flush()
        return known

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write each value as a scalar."""
        for name, value in values.items():
            self._open_writer.add_scalar(name, value, step)
        self._open_writer.flush()  # raises if the disk is full

    def finish(self, results: TrackedResults) -> None:
        """Write scores and paired differences as scalars, and the verdict and card as text."""
        for name, value in results.values.items():
            self._open_writer.add_scalar(name, value, 0)
        for name, text in results.tags.items():
            self._open_writer.add_text(name, text)
        self._open_writer.add_text("card", results.markdown)
        self._open_writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()

    @property
    def _open_writer(self) -> SummaryWriter:
        assert self._writer is not None
        return self._writer


def read_last_steps(folder: Path) -> dict[str, int]:
    """Return the last step of each curve in the event files of a run."""
    from tensorboard.backend.event_processing.event_accumulator import (
        SCALARS,
        EventAccumulator,
    )

    events = EventAccumulator(str(folder), size_guidance={SCALARS: 1})
    events.Reload()
    return {name: events.Scalars(name)[-1].step for name in events.Tags()[SCALARS]}


def escape(text: str) -> str:
    """Return the text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def build(options: TensorboardOptions, folder: RunFolder) -> TrackerReporter:
    """Create the reporter from its options."""
    return TrackerReporter(TensorboardTracker(options), options, folder)


TENSORBOARD = ReporterOffer(
    name="tensorboard",
    summary="curves, intervals and verdict as event files for TensorBoard",
    config=TensorboardOptions,
    build=build,
)
