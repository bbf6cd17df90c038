"""Read the values of two models on the rows that both were evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.events import JSON, Measured
from tunesmith.execution.evaluate import read_rows


@dataclass(frozen=True)
class PairedRows:
    """Rows of two evaluations of one metric, each row of the first with that of the second."""

    metric: str
    rival: Sequence[JSON]
    tuned: Sequence[JSON]

    def __len__(self) -> int:
        return len(self.tuned)

    @property
    def rival_values(self) -> list[float]:
        """The values of the first model."""
        return [float(row[self.metric]["value"]) for row in self.rival]

    @property
    def tuned_values(self) -> list[float]:
        """The values of the second model."""
        return [float(row[self.metric]["value"]) for row in self.tuned]

    @property
    def weights(self) -> list[float] | None:
        """The weights, which both models share; None if all are equal."""
        weights = [float(row[self.metric]["weight"]) for row in self.tuned]
        return weights if len(set(weights)) > 1 else None

    @property
    def groups(self) -> list[str | None] | None:
        """The groups of the rows; None if all rows are independent of each other."""
        groups = [row.get("group") for row in self.tuned]
        return groups if any(group is not None for group in groups) else None


def read_pairs(folder: Path, rival: Measured, tuned: Measured) -> PairedRows:
    """Read the rows that both events measured, by the numbers of the held-out rows.

    A costly model may have been evaluated on some of the held-out rows only.

    Raises:
        IntegrityError: a file is lost or damaged.
    """
    first = _by_number(folder / rival.records, rival.metric)
    second = _by_number(folder / tuned.records, tuned.metric)
    numbers = [number for number in second if number in first]
    return PairedRows(tuned.metric, [first[n] for n in numbers], [second[n] for n in numbers])


def _by_number(path: Path, metric: str) -> dict[int, JSON]:
    """Return the rows by their number; earlier versions wrote all rows, without numbers."""
    rows = read_rows(path, metric)
    return {int(row.get("row", position)): row for position, row in enumerate(rows)}
