"""The data of a trial: its training and validation rows, and no test row.

A trial is an ordinary run, which scores its model on the test part of its data. In a trial that
part is the validation rows of the run that is tuned: they choose, and its test rows are not read by
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
from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.execution.run_data import load_data
from tunesmith.offers import DataLoaderOffer
from tunesmith.options import DataPath, Options

NAME = "validation-part"
NO_VALIDATION_ROWS = "no row is a validation row, and validation rows choose between the trials"
VALIDATION_HINT = "raise split.validation_size, for example to 0.2"


class ValidationPartOptions(Options):
    """Options of ``[data] use = "validation-part"``, which `tunesmith tune` writes."""

    plan: DataPath = Field(
        min_length=1,
        description="Run file whose data, without its test rows, is that of this run.",
    )


@dataclass(frozen=True)
class ValidationPart:
    """Loads and splits the data of another run file, and skips its test rows."""

    options: ValidationPartOptions

    def load(self) -> Dataset:
        """Return the training and the validation rows, the latter also for the evaluation.

        Raises:
            DataError: there are no validation rows.
        """
        path = Path(self.options.plan)
        if not path.is_file():
            raise DataError(f"{path}:1", "no such run file", hint="restore the folder of the study")
        tables = read_run_file(path, environment={}).tables
        require_trusted(tables, path.parent)
        plan, _ = api.load_plan(path)
        dataset, parts = load_data(plan)
        if not parts.validation:
            raise DataError(f"{path}:1", NO_VALIDATION_ROWS, hint=VALIDATION_HINT)
        description = (
            f"{dataset.description}; test rows are left out, scores are of validation rows"
        )
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
