"""Options: the tables of a run file that belong to the core, and the base for plugins' own.

Imported when a run file is read, never for ``--help``: pydantic takes its time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

M = TypeVar("M", bound=BaseModel)

DataPath = Annotated[str, Field(json_schema_extra={"path": True})]
"""A path option: a relative one is taken from the folder of the run file that names it."""


class Options(BaseModel):
    """Base of all options: cannot be changed once made, refuses unknown keys and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def from_table(options: type[M], table: Mapping[str, Any]) -> M:
    """Options from a table of a run file.

    Read as JSON: TOML knows arrays, not tuples or sets, and strict options would refuse them.

    Raises:
        pydantic.ValidationError: with everything that is wrong.
    """
    return options.model_validate_json(json.dumps(dict(table), default=str))


class RunOptions(Options):
    """``[run]``: what holds for the run as a whole."""

    name: str = Field(
        "",
        description="Name of the run, part of its folder's name. Empty: the run file's name.",
        max_length=60,
        pattern=r"^[A-Za-z0-9._-]*$",
    )
    seed: int = Field(42, ge=0, lt=2**31, description="Seed of split, initialisation and order.")
    folder: DataPath = Field("runs", description="Folder in which the run's own folder is made.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Where to train: auto, cpu, cuda, cuda:N or mps.",
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Stop training, resumable, after so many minutes (exit code 75).",
    )


class ModelOptions(Options):
    """``[model]``: which model to start from."""

    base: str = Field(
        min_length=1,
        description=(
            "The base model: a folder, a GGUF file, wheel:PACKAGE for a GGUF file inside an "
            "installed wheel, a hub id, or anything an installed plugin recognises."
        ),
    )
    revision: str | None = Field(None, description="Commit or tag, for models that have revisions.")


class DataOptions(Options):
    """``[data]``: the keys that belong to the core; all others belong to the chosen loader."""

    use: str = Field(min_length=1, description="Which data loader reads the data.")
    holdout: Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=1)] | None = Field(
        None,
        description=(
            "What is held out for evaluation: a share below 1, or a number of rows. Unset: a "
            "fifth, at most 500 rows. Not used when the loader brings held-out records of its own."
        ),
    )


class BaselineOptions(Options):
    """``[baselines]``: what the tuned model has to beat."""

    zero_shot: bool = Field(True, description="Measure the untouched model with the prompt alone.")
    shots: int = Field(
        5,
        ge=0,
        le=64,
        description=(
            "Worked examples in the few-shot prompt, taken from the training part; 0 leaves the "
            "few-shot baseline out."
        ),
    )
    system_prompt: str | None = Field(
        None,
        description=(
            "System prompt that both baselines get: the best you would write if you did not "
            "fine-tune. The tuned model does not get it."
        ),
    )


class GateOptions(Options):
    """``[gate]``: what must hold for the run to end with exit code 0 instead of 6."""

    must_beat: list[Literal["base", "few-shot"]] = Field(
        [],
        description=(
            "Baselines that the tuned model must beat on the first evaluator's metric, with a "
            "paired 95 % interval that excludes zero."
        ),
    )
    at_least: dict[str, float] = Field(
        {},
        description="Bounds by metric: a floor, or a ceiling where lower is better.",
    )


class PlanOptions(Options):
    """``[plan]``: how the run is planned; nothing of it changes the run."""

    prices: DataPath | None = Field(
        None,
        description=(
            "A TOML file with GPUs and prices that go over the packaged table. Without it, "
            "prices.toml in the configuration directory does, if it is there."
        ),
    )


class PluginsOptions(Options):
    """``[plugins]``: which plugins this run needs, adds or does without."""

    require: list[str] = Field([], description='Requirements, such as "tunesmith-mlflow>=0.2".')
    disable: list[str] = Field([], description="Plugins to leave out, by name.")
    files: list[str] = Field(
        [], description="Single-file plugins to load.", json_schema_extra={"path": True}
    )
