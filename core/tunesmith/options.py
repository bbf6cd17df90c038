"""Options: the tables of a run file that belong to the core, and the base class for plugins.

Imported when a run file is read, never for ``--help``: importing pydantic is slow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

M = TypeVar("M", bound=BaseModel)

DataPath = Annotated[str, Field(json_schema_extra={"path": True})]
"""A path option; relative paths start at the folder of the run file."""


class Options(BaseModel):
    """Base class of all options: immutable, refuses unknown keys, wrong types, inf and nan."""

    EARLIER: ClassVar[Mapping[str, str]] = {}
    """Present key by the key of an earlier version, which is refused with a hint at the present
    one. Subclasses add to the tables of their base classes: see :func:`earlier_keys`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def earlier_keys(options: type[BaseModel]) -> dict[str, str]:
    """Return the present key of each key of an earlier version, over all base classes."""
    tables: list[Mapping[str, str]] = [
        vars(cls).get("EARLIER", {}) for cls in reversed(options.__mro__)
    ]
    return {old: new for table in tables for old, new in table.items()}


def fields_by_key(options: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of options by their key in a run file, which may differ from the name."""
    return {info.alias or name: info for name, info in options.model_fields.items()}


def table_options(field: FieldInfo) -> type[BaseModel] | None:
    """Return the options class of a field that is a table; None for other fields and lists."""
    is_list = get_origin(field.annotation) is list
    return None if is_list else nested_options(field.annotation)


def nested_options(annotation: Any) -> type[BaseModel] | None:
    """Return the options class in the type of a field, as in ``X``, ``X | None``, ``list[X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(nested_options, get_args(annotation))), None)


def from_table(options: type[M], table: Mapping[str, Any]) -> M:
    """Build options from a table of a run file.

    The table is read as JSON: TOML has arrays, but no tuples or sets, and strict options would
    refuse an array for those.

    Raises:
        pydantic.ValidationError: with every problem of the table.
    """
    return options.model_validate_json(json.dumps(dict(table), default=str))


class RunOptions(Options):
    """Table ``[run]``: settings of the run itself."""

    name: str = Field(
        "",
        description="Name of the run, part of its folder's name. Empty: the run file's name.",
        max_length=60,
        pattern=r"^[A-Za-z0-9._-]*$",
    )
    seed: int = Field(42, ge=0, lt=2**31, description="Seed of split, initialization and order.")
    folder: DataPath = Field("runs", description="Folder in which the run folder is created.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Device to train on: auto, cpu, cuda, cuda:N or mps.",
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Stop training after this many minutes; the run can be resumed (exit code 75).",
    )


class ModelOptions(Options):
    """Table ``[model]``: the base model."""

    base: str = Field(
        min_length=1,
        description=(
            "The base model: a folder, a GGUF file, wheel:PACKAGE for a GGUF file inside an "
            "installed wheel, a hub id, or anything an installed plugin recognizes."
        ),
    )
    revision: str | None = Field(None, description="Commit or tag, for models that have revisions.")


class DataOptions(Options):
    """Table ``[data]``: the keys of the core; all other keys belong to the data loader."""

    use: str | None = Field(
        None,
        min_length=1,
        description="Name of the data loader. Unset: the one that knows the files in `train`.",
    )
    test_size: Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=1)] | None = Field(
        None,
        description=(
            "Rows held out for evaluation: a share below 1, or a number of rows. Unset: a fifth, "
            "at most 500 rows. Not used if the data loader returns test records."
        ),
    )


class EvaluatorKeys(Options):
    """Table ``[[evaluators]]``: the keys of the core; all other keys belong to the evaluator."""

    use: str = Field(min_length=1, description="Name of the evaluator.")
    id: str | None = Field(
        None,
        max_length=60,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        description=(
            "Name of this evaluator in events, in the report, in files and in the gate. Unset: the "
            "name in `use`; if an evaluator above has that id, with a number: `exact-match-2`."
        ),
    )


class BaselineOptions(Options):
    """Table ``[baselines]``: the baselines that the tuned model is compared with.

    A further key that is the name of a baseline is the table of its options.
    """

    use: list[str] | None = Field(
        None,
        description=(
            "Baselines: ways to solve the task without tuning, by name; `[]` for none. Unset: all "
            "that suit the training rows."
        ),
    )
    rows: int = Field(
        100,
        ge=0,
        description=(
            "Test rows, chosen at random, on which the baselines that ask the base model are "
            "scored; 0: all. One that no other beats on the validation rows is scored on all if "
            "the budget allows, and so are baselines without a model."
        ),
    )
    budget: str = Field(
        "5m",
        pattern=r"^\d+(\.\d+)?[smh]$",
        description=(
            "Time for the baselines that ask the base model, besides the scores on `rows`: `90s`, "
            "`5m`, `2h`. What is skipped then is reported."
        ),
    )
    system_prompt: str | None = Field(
        None,
        description=(
            "System prompt of the baselines that ask the base model: the best one you would write "
            "without fine-tuning. The tuned model does not get it."
        ),
    )

    @property
    def budget_seconds(self) -> float:
        return float(self.budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[self.budget[-1]]


class GateOptions(Options):
    """Table ``[gate]``: conditions for the run to end with exit code 0 instead of 6."""

    must_beat: list[str] = Field(
        [],
        description=(
            "Baselines, by name, that the tuned model must beat on the first evaluator's metric, "
            "with a paired 95 % interval that excludes zero."
        ),
    )
    at_least: dict[str, float | dict[str, float]] = Field(
        {},
        description=(
            "Bounds by metric: a floor, or a ceiling where lower is better. A metric that several "
            "evaluators measure has the id of one before it: `lenient.exact-match = 0.9`. A "
            "metric whose evaluator tests a margin must pass that test too."
        ),
    )

    def bounds(self) -> Iterator[tuple[str, str, str, float]]:
        """Yield each bound of ``at_least``: its key, an evaluator's id or "", a metric, a value."""
        for name, value in self.at_least.items():
            by_metric = value if isinstance(value, dict) else {"": value}
            for metric, bound in by_metric.items():
                key = ".".join(filter(None, ("gate.at_least", name, metric)))
                yield key, name if metric else "", metric or name, bound


class PluginsOptions(Options):
    """Table ``[plugins]``: plugins that the run requires, adds or disables."""

    require: list[str] = Field([], description='Requirements, such as "tunesmith-mlflow>=0.2".')
    disable: list[str] = Field([], description="Plugins to leave out, by name.")
    files: list[str] = Field(
        [], description="Single-file plugins to load.", json_schema_extra={"path": True}
    )
