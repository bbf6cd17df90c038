"""Load the data of a trial: the training and validation rows of the tuned run, not its test rows.

A trial is an ordinary run, so it scores its model on its test split. In a trial, this split
contains the validation rows of the tuned run, which choose between trials. No model reads the tuned
run's test rows until the search is over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith import api
from tunesmith.config.run_file import read_run_file
from tunesmith.config.trust import require_trusted
from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.execution.run_data import load_data
from tunesmith.offers import DataLoaderOffer
from tunesmith.options import DataPath, Options

NAME = "validation-part"
NO_VALIDATION_ROWS = (
    "the data has no validation rows, but the search needs them to choose between trials"
)
VALIDATION_HINT = "raise split.validation_size, for example to 0.2"


class ValidationPartOptions(Options):
    """Options of ``[data] use = "validation-part"``, which `tunesmith tune` writes."""

    plan: DataPath = Field(
        min_length=1,
        description="Run file whose data is used, without its test rows.",
    )


@dataclass(frozen=True)
class ValidationPart:
    """Loads and splits the data of another run file, and omits its test rows."""

    options: ValidationPartOptions

    def load(self) -> Dataset:
        """Return the training and validation rows. The validation rows are also the test split.

        Raises:
            DataError: the data has no validation rows.
        """
        path = Path(self.options.plan)
        if not path.is_file():
            raise DataError(
                f"{path}:1",
                "no such run file",
                hint="restore the search folder from a backup, or start a new search",
            )
        tables = read_run_file(path, environment={}).tables
        require_trusted(tables, path.parent)
        plan, _ = api.load_plan(path)
        dataset, parts = load_data(plan)
        if not parts.validation:
            raise DataError(f"{path}:1", NO_VALIDATION_ROWS, hint=VALIDATION_HINT)
        description = f"{dataset.description}; without test rows, scored on validation rows"
        return replace(
            dataset,
            train=parts.train,
            validation=parts.validation,
            test=parts.validation,
            description=description,
        )


VALIDATION_PART: DataLoaderOffer[Any] = DataLoaderOffer(
    name=NAME,
    summary="training and validation rows of another run file, for the trials of `tunesmith tune`",
    config=ValidationPartOptions,
    build=ValidationPart,
)
