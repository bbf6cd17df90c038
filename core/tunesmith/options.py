"""The options of the core's run-file tables, and the base class of plugin options.

Imported when a run file is read, but not for ``--help``: importing pydantic is slow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

M = TypeVar("M", bound=BaseModel)

DataPath = Annotated[str, Field(json_schema_extra={"path": True})]
"""Type of a path option; paths are relative to the run file's folder."""

PathOrName = Annotated[str, Field(json_schema_extra={"path": True, "or_name": True})]
"""Type of an option for a path or a name, such as a hub id: a path only if it exists."""


class Options(BaseModel):
    """Base class of all options, which are immutable; unknown keys, inf and nan are errors."""

    EARLIER: ClassVar[Mapping[str, str]] = {}
    """Maps keys of earlier versions to current keys. An earlier key is an error; its hint names the
    current key. Subclasses extend the tables of their base classes: see :func:`earlier_keys`."""

    UNUSED: ClassVar[frozenset[str]] = frozenset()
    """Inherited fields that have no effect in a subclass. Only their defaults are accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _refuse_unused_fields(self) -> Self:
        fields = {n: info for n, info in type(self).model_fields.items() if n in self.UNUSED}
        changed = [
            f"`{info.alias or name}`"
            for name, info in fields.items()
            if getattr(self, name) != info.get_default(call_default_factory=True)
        ]
        if changed:
            raise ValueError(f"remove keys that have no effect here: {', '.join(changed)}")
        return self


def earlier_keys(options: type[BaseModel]) -> dict[str, str]:
    """Return the current key of each key of an earlier version, also those in base classes."""
    tables: list[Mapping[str, str]] = [
        vars(cls).get("EARLIER", {}) for cls in reversed(options.__mro__)
    ]
    return {old: new for table in tables for old, new in table.items()}


def fields_by_key(options: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the used fields of options by run-file key, which may differ from the field's name."""
    unused = options.UNUSED if issubclass(options, Options) else ()
    fields = options.model_fields.items()
    return {info.alias or name: info for name, info in fields if name not in unused}


def table_options(field: FieldInfo) -> type[BaseModel] | None:
    """Return the options class of a field that is a table; None for lists and other fields."""
    is_list = get_origin(field.annotation) is list
    return None if is_list else nested_options(field.annotation)


def nested_options(annotation: Any) -> type[BaseModel] | None:
    """Return the options class in a field's type, such as ``X``, ``X | None`` or ``list[X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(nested_options, get_args(annotation))), None)


def from_table(options: type[M], table: Mapping[str, Any]) -> M:
    """Build options from a table of a run file.

    The table is validated as JSON: TOML has arrays but no tuples or sets, and strict options would
    reject an array for a tuple or a set.

    Raises:
        pydantic.ValidationError: lists every problem of the table.
    """
    return options.model_validate_json(json.dumps(dict(table), default=str))


class RunOptions(Options):
    """The ``[run]`` table: settings of the run itself."""

    name: str = Field(
        "",
        description="Name of the run, used in its folder's name. Empty: the run file's name.",
        max_length=60,
        pattern=r"^[A-Za-z0-9._-]*$",
    )
    seed: int = Field(
        42,
        ge=0,
        lt=2**31,
        description="Seed of the split, the initial weights and the order of rows.",
    )
    title: str = Field(
        "",
        description="The task in a few words, as the title of reports. Empty: the name.",
        max_length=120,
    )
    folder: DataPath = Field("runs", description="Folder where the run folder is created.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Device to train on: auto, cpu, cuda, cuda:N or mps.",
    )
    side_effects: bool = Field(
        True,
        description=(
            "Also measure the side effects of training: how well the base model and the tuned "
            "model answer general prompts outside the task."
        ),
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Stop training after this many minutes; the run can be resumed (exit code 75).",
    )


class ModelOptions(Options):
    """The ``[model]`` table: the base model."""

    base: str = Field(
        min_length=1,
        description=(
            "The base model: a folder, a GGUF file, wheel:PACKAGE for a GGUF file in an installed "
            "wheel, a hub id, or any reference that an installed plugin recognizes."
        ),
    )
    revision: str | None = Field(None, description="Commit or tag of a model that has revisions.")


class DataOptions(Options):
    """The ``[data]`` table: the keys of the core; all other keys belong to the data loader."""

    use: str | None = Field(
        None,
        min_length=1,
        description="Name of the data loader. Unset: the one that recognizes the files in `train`.",
    )
    test_size: Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=1)] | None = Field(
        None,
        description=(
            "Test rows: a share below 1, or a number of rows. Unset: 20 % of the rows, at most "
            "500. Not used if the data loader returns test records."
        ),
    )


class EvaluatorKeys(Options):
    """The ``[[evaluators]]`` table: keys of the core; all other keys belong to the evaluator."""

    use: str = Field(min_length=1, description="Name of the evaluator.")
    id: str | None = Field(
        None,
        max_length=60,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        description=(
            "Name of this evaluator in events, the report, files and `[gate]`. Unset: the name in "
            "`use`, with a number if an evaluator above has that id: `exact-match-2`."
        ),
    )


DEFAULT_BASELINE_ROWS = 100


class BaselineOptions(Options):
    """The ``[baselines]`` table: the baselines that the tuned model is compared with.

    Any other key is the name of a baseline; its table has the options of that baseline.
    """

    use: list[str] | None = Field(
        None,
        description=(
            "Names of the baselines, which solve the task without fine-tuning; `[]` for none. "
            "Unset: all baselines that suit the training rows."
        ),
    )
    rows: int | None = Field(
        None,
        ge=0,
        description=(
            "Number of random test rows for the baselines that query the base model; 0: all. "
            "Unset: 100, but 20 for a baseline with the worst possible score on the validation "
            "rows, and all for the best baseline if `budget` allows. Baselines without a model "
            "are always scored on all test rows."
        ),
    )
    budget: str = Field(
        "5m",
        pattern=r"^\d+(\.\d+)?[smh]$",
        description=(
            "Time for choosing prompts and other variants that query the base model: `90s`, `5m`, "
            "`2h`. What is left lets the best of them answer all test rows. Scoring `rows` test "
            "rows does not count. The report lists what is skipped for lack of time."
        ),
    )
    system_prompt: str | None = Field(
        None,
        description=(
            "System prompt of the baselines that query the base model: the best one you would "
            "write without fine-tuning. The tuned model does not get it."
        ),
    )

    @property
    def max_rows(self) -> int:
        """The value of ``rows``, or its default."""
        return DEFAULT_BASELINE_ROWS if self.rows is None else self.rows

    @property
    def budget_seconds(self) -> float:
        return float(self.budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[self.budget[-1]]


class GateOptions(Options):
    """The ``[gate]`` table: exit criteria. A run that misses any of them exits with code 6."""

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
            "Thresholds by metric: a minimum, or a maximum if lower is better. If several "
            "evaluators measure a metric, put an id before it: `lenient.exact-match = 0.9`. If the "
            "metric's evaluator tests a margin, that test must pass too."
        ),
    )

    strict: bool = Field(
        False,
        description=(
            "Also fail the run if there is a warning before training, or if the verdict does not "
            "recommend the tuned model. `tunesmith run --strict` sets this."
        ),
    )

    def bounds(self) -> Iterator[tuple[str, str, str, float]]:
        """Yield key, evaluator id (or ""), metric and value of each threshold of ``at_least``."""
        for name, value in self.at_least.items():
            by_metric = value if isinstance(value, dict) else {"": value}
            for metric, bound in by_metric.items():
                key = ".".join(filter(None, ("gate.at_least", name, metric)))
                yield key, name if metric else "", metric or name, bound


class PluginsOptions(Options):
    """The ``[plugins]`` table: plugins that the run requires, disables or adds."""

    require: list[str] = Field(
        [],
        description='Required distributions, such as "tunesmith-mlflow>=0.2".',
    )
    disable: list[str] = Field([], description="Names of plugins that the run must not use.")
    files: list[str] = Field(
        [], description="Single-file plugins to load.", json_schema_extra={"path": True}
    )
