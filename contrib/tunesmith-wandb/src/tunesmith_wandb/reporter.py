"""Write the curves, intervals and verdict of a run for Weights & Biases."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tunesmith.errors import EnvironmentProblem
from tunesmith.offers import ReporterOffer
from tunesmith.options import DataPath
from tunesmith.storage import RunFolder, write_atomic
from tunesmith_evidence.tracking import (
    TrackedResults,
    TrackedRun,
    TrackerOptions,
    TrackerReporter,
)

if TYPE_CHECKING:
    from wandb import Run

STEP = "step"
"""The metric that all curves are drawn over. W&B's own step cannot start again at 1, as the steps
of a second stage do."""

BLOCK, HEADER = 32_768, 7
"""Bytes of a block in a W&B file, and of the header of each record."""


class WandbOptions(TrackerOptions):
    """Options of ``[[reporters]] use = "wandb"``."""

    project: str = Field("tunesmith", min_length=1, description="Name of the project.")
    entity: str = Field("", description="Name of the user or team. Empty: the default of the user.")
    mode: Literal["offline", "online"] = Field(
        "offline",
        description="`offline` writes files, which `wandb sync` uploads. `online` sends them.",
    )
    folder: DataPath = Field("wandb", description="Folder for the files of all runs.")


class WandbTracker:
    """One run of W&B for each run; a resumed run continues the run with the same id."""

    def __init__(self, options: WandbOptions) -> None:
        self._options = options
        self._opened: Run | None = None
        self._last_steps: dict[str, int] = {}

    def start(self, run: TrackedRun) -> Mapping[str, int]:
        """Start a process of W&B, which writes or sends the run."""
        import wandb  # takes seconds

        options = self._options
        # W&B would ask for a key in the terminal, and then write files instead.
        if options.mode == "online" and not (wandb.run or wandb.login(prompt=False, verify=False)):
            raise EnvironmentProblem("not logged in: set WANDB_API_KEY, or run `wandb login`")
        folder = Path(options.folder)
        folder.mkdir(parents=True, exist_ok=True)
        place = zlib.crc32(f"{options.mode}/{options.entity}/{options.project}".encode())
        self._state = folder / f"{run.id}-{place:08x}.json"
        if self._state.is_file():
            self._last_steps = json.loads(self._state.read_text(encoding="utf-8"))
        self._opened = wandb.init(
            project=options.project,
            entity=options.entity or None,
            mode=options.mode,
            dir=str(folder.resolve()),
            id=run.id,
            name=run.name,
            config={**run.options, **{f"version.{k}": v for k, v in run.versions.items()}},
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric("*", step_metric=STEP)
        return self._last_steps

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the values of a step, and note that they are written."""
        self._run.log({**values, STEP: step})
        self._last_steps |= dict.fromkeys(values, step)
        write_atomic(self._state, json.dumps(self._last_steps))

    def finish(self, results: TrackedResults) -> None:
        """Write scores, tags and card into the summary."""
        import wandb

        self._run.summary.update({**results.values, **results.tags})
        self._run.log({"card": wandb.Html(results.svg)})
        file = Path(self._run.settings.sync_file)
        self._run.finish(exit_code=int(results.status != "ok"))
        self._opened = None
        if not is_complete(file.read_bytes()):  # W&B ignores errors of writing
            raise EnvironmentProblem(f"{file}: ends inside a record; is the disk full?")

    def close(self) -> None:
        """End the process of W&B."""
        if self._opened is not None:
            self._opened.finish(exit_code=1)

    @property
    def _run(self) -> Run:
        assert self._opened is not None
        return self._opened


def is_complete(data: bytes) -> bool:
    """Return True if the content of a W&B file ends with a whole record.

    The file starts with seven bytes, then it is a LevelDB log:
    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    position = HEADER
    while position + HEADER <= len(data):
        rest = BLOCK - position % BLOCK
        if rest < HEADER:
            position += rest
            continue
        (size,) = struct.unpack_from("<H", data, position + 4)
        position += HEADER + size
    return position == len(data)


def build(options: WandbOptions, folder: RunFolder) -> TrackerReporter:
    """Create the reporter from its options."""
    return TrackerReporter(WandbTracker(options), options, folder)


WANDB = ReporterOffer(
    name="wandb",
    summary="curves, intervals and verdict for Weights & Biases, also offline",
    config=WandbOptions,
    build=build,
)
