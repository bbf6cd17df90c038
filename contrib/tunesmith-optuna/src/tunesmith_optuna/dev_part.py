"""The data of a trial: its training and dev rows, and no held-out row.

A trial is an ordinary run, which scores its model on the held-out part of its data. In a trial that
part is the dev rows of the run that is tuned: they choose, and its held-out rows are not read by
any model until the search is over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith import api
from tunesmith.config.run_file import read_run_file
from tunesmith.config.trust import require_trusted
from tunesmith.contracts import DataLoader, Dataset
from tunesmith.errors import DataError
from tunesmith.execution.run_data import load_data
from tunesmith.offers import DataLoaderOffer
from tunesmith.options import DataPath, Options

NAME = "dev-part"
NO_DEV_ROWS = "no row is a dev row, and dev rows choose between the trials"
DEV_HINT = "raise split.dev, for example to 0.2"


class DevPartOptions(Options):
    """Options of ``[data] use = "dev-part"``, which `tunesmith tune` writes."""

    plan: DataPath = Field(
        min_length=1,
        description="Run file whose data, without its held-out rows, is that of this run.",
    )


@dataclass(frozen=True)
class DevPart:
    """Loads and splits the data of another run file, and leaves out its held-out rows."""

    options: DevPartOptions

    def load(self) -> Dataset:
        """Return the training and the dev rows, the latter also for the evaluation.

        Raises:
            DataError: there are no dev rows.
        """
        path = Path(self.options.plan)
        if not path.is_file():
            raise DataError(f"{path}:1", "no such run file", hint="restore the folder of the study")
        tables = read_run_file(path, environment={}).tables
        require_trusted(tables, path.parent)
        plan, _ = api.load_plan(path)
        dataset, parts = load_data(plan)
        if not parts.dev:
            raise DataError(f"{path}:1", NO_DEV_ROWS, hint=DEV_HINT)
        description = f"{dataset.description}; held-out rows left out, scores are of dev rows"
        return replace(
            dataset, train=parts.train, dev=parts.dev, heldout=parts.dev, description=description
        )


def build(options: DevPartOptions) -> DataLoader:
    """Build the data loader."""
    return DevPart(options)


DEV_PART: DataLoaderOffer[Any] = DataLoaderOffer(
    name=NAME,
    summary="training and dev rows of another run file, for the trials of `tunesmith tune`",
    config=DevPartOptions,
    build=build,
)
