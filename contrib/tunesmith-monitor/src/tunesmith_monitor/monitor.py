"""The monitor of a run: its folder, and the calls for traffic files and single requests.

::

    with Monitor.open("runs/tickets") as monitor:
        monitor.observe({"prompt": "The heating is off", "confidence": 0.93})
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from tunesmith.errors import DataError, UsageError
from tunesmith.options import Options, from_table
from tunesmith.storage import lock, write_atomic
from tunesmith.storage.atomic import decode_json, encode_json, make_folder
from tunesmith_evidence.review.policy import ReviewPolicy
from tunesmith_monitor.budget import Budget
from tunesmith_monitor.features import FeatureSpace
from tunesmith_monitor.reference import find_policy, read_reference_file, read_run
from tunesmith_monitor.traffic import Position, Request, read_requests
from tunesmith_monitor.watch import Alarm, Watch

STATE, REFERENCE, TRAFFIC = "state.json", "reference.npz", "traffic.jsonl"
BATCH = 500
"""Requests between two writes of the state."""


class MonitorOptions(Options):
    """Options of a monitor. They are stored with its state and cannot change later."""

    run_length: int = Field(
        20_000, ge=100, description="Requests per false alarm, on average, if nothing changes."
    )
    window: int = Field(50, ge=10, description="Requests in a short window; a long one has 4x.")
    tolerance: float = Field(
        0.02, ge=0, lt=1, description="Largest fall of the share of right answers without an alarm."
    )


@dataclass
class Monitor:
    """An open monitor. Leave its ``with`` block to save the state."""

    folder: Path
    run: Path
    options: MonitorOptions
    watch: Watch
    policy: ReviewPolicy | None
    positions: dict[str, Position] = field(default_factory=dict)
    """The part of each traffic file that was read."""
    reference: str | None = None
    """The file of earlier traffic to compare with; None: the run's rows."""

    @classmethod
    @contextmanager
    def open(
        cls,
        run: str | Path,
        folder: str | Path | None = None,
        *,
        options: MonitorOptions | None = None,
        reference: Path | None = None,
        plugins: Sequence[str] = (),
    ) -> Iterator[Monitor]:
        """Open the monitor of a run, or create it; only one process can open it at a time.

        Args:
            run: the run folder.
            folder: the monitor's folder; default: the run folder's name with ``.monitor``.
            options: used if the monitor is created.
            reference: file of earlier traffic to compare with, instead of the run's rows.
            plugins: plugin files to load.

        Raises:
            UsageError: the monitor exists with other options or another reference, or belongs to
                another run.
        """
        path = find_folder(Path(run), folder)
        make_folder(path)
        with lock(path):
            if (path / STATE).is_file():
                monitor = cls._read(path, Path(run), options, reference)
            else:
                options = options or from_table(MonitorOptions, {})
                monitor = cls._create(path, Path(run), options, reference, plugins)
            monitor.read([path / TRAFFIC] if (path / TRAFFIC).is_file() else [])
            yield monitor
            monitor.save()

    @classmethod
    def _create(
        cls,
        path: Path,
        run: Path,
        options: MonitorOptions,
        reference: Path | None,
        plugins: Sequence[str],
    ) -> Monitor:
        known, policy = read_run(run, files=plugins), find_policy(run)
        texts, confidences = known.requests, known.confidences
        if reference is not None:
            texts, confidences = read_reference_file(reference, policy)
        space, score = FeatureSpace.fit(known.train), known.score
        if not texts:
            raise UsageError(f"{run}: there are no reference requests", hint="use --reference FILE")
        rows_NF, floor = space.transform(texts), np.nan if score is None else score.low
        space.save(
            path / REFERENCE, rows=rows_NF, confidences=np.array(confidences), floor=np.array(floor)
        )
        monitor = cls._build(path, run, options)
        monitor.reference = str(reference.resolve()) if reference else None
        monitor.save()
        return monitor

    @classmethod
    def _build(cls, path: Path, run: Path, options: MonitorOptions) -> Monitor:
        space, arrays = FeatureSpace.read(path / REFERENCE)
        floor = float(arrays["floor"])
        watch = Watch.build(
            space,
            arrays["rows"],
            arrays["confidences"].tolist(),
            None if np.isnan(floor) else floor - options.tolerance,
            Budget(options.run_length),
            window=options.window,
            tolerance=options.tolerance,
        )
        return cls(path, run, options, watch, find_policy(run))

    @classmethod
    def _read(
        cls, path: Path, run: Path, options: MonitorOptions | None, reference: Path | None
    ) -> Monitor:
        state = decode_json((path / STATE).read_bytes())
        stored = MonitorOptions(**state["options"])
        if state["run"] != str(run.resolve()):
            raise UsageError(
                f"{path}: monitors {state['run']}", hint="choose another folder with --state"
            )
        is_other = reference is not None and str(reference.resolve()) != state["reference"]
        if is_other or (options is not None and options != stored):
            raise UsageError(
                f"{path}: the options and the reference of a monitor cannot change",
                hint="leave them out, or choose a new folder with --state",
            )
        monitor = cls._build(path, run, stored)
        monitor.watch.restore(state["watch"])
        monitor.positions = {name: Position(**p) for name, p in state["positions"].items()}
        monitor.reference = state["reference"]
        return monitor

    def read(self, files: Sequence[Path]) -> list[Alarm]:
        """Read what is new in traffic files, one after the other; return the new alarms.

        The state is written after each batch. A process that is killed reads the lines after it
        again when it is restarted.

        Raises:
            DataError: a file cannot be read.
        """
        alarms: list[Alarm] = []
        for path in files:
            name = str(path.resolve())
            batch: list[Request | None] = []
            for request, position in read_requests(
                path, self.positions.get(name, Position()), self.policy
            ):
                batch.append(request)
                if len(batch) == BATCH:
                    alarms += self.watch.add(batch)
                    self.positions[name] = position
                    self.save()
                    batch = []
            if batch:
                alarms += self.watch.add(batch)
                self.positions[name] = position
        return alarms

    def observe(self, row: Mapping[str, Any]) -> list[Alarm]:
        """Add one request, with the keys of a line of a traffic file; return the new alarms.

        The request is first appended to a file in the monitor's folder, so it survives a kill.

        Raises:
            DataError: the row has neither a prompt nor an audited answer.
        """
        append_line(self.folder / TRAFFIC, row)
        unusable = self.watch.unusable
        alarms = self.read([self.folder / TRAFFIC])
        if self.watch.requests % BATCH == 0:
            self.save()
        if self.watch.unusable > unusable:
            raise DataError("request", "has neither a prompt nor an audited answer")
        return alarms

    def save(self) -> None:
        """Write the state."""
        state = {
            "run": str(self.run.resolve()),
            "options": self.options.model_dump(),
            "reference": self.reference,
            "watch": self.watch.to_json(),
            "positions": {name: asdict(position) for name, position in self.positions.items()},
        }
        write_atomic(self.folder / STATE, encode_json(state))


def find_folder(run: Path, folder: str | Path | None = None) -> Path:
    """Return the folder of a run's monitor."""
    run = run.resolve()  # A link to the run in service leads to another run after a promotion.
    return Path(folder) if folder is not None else run.with_name(f"{run.name}.monitor")


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a file in one write, which other processes cannot interrupt."""
    line = json.dumps(row, ensure_ascii=True) + "\n"
    with path.open("ab", buffering=0) as file:
        file.write(line.encode())


def read_outcomes(folder: Path) -> list[float]:
    """Return the latest audited answers of a monitor, from 0 (wrong) to 1; empty without one."""
    path = folder / STATE
    if not path.is_file():
        return []
    outcomes: list[float] = decode_json(path.read_bytes())["watch"]["outcomes"]
    return outcomes
