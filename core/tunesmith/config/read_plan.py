"""From a run file to a plan: typed, cross-checked, printable, and nothing heavy imported.

Every table has one owner. The core owns ``run``, ``model``, ``baselines``, ``gate``, ``plan``,
``plugins`` and two keys of ``data``; all other keys belong to the component that ``use`` names and
are validated by its own options. All problems are collected and reported together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tunesmith import plugins as plugin_finding
from tunesmith.catalog import Catalog, NotOffered
from tunesmith.config.run_file import RunFile
from tunesmith.contracts import FoundModel
from tunesmith.errors import (
    ConfigError,
    EnvironmentProblem,
    PluginError,
    Problem,
    TunesmithError,
    UsageError,
)
from tunesmith.offers import (
    ConfiguredOffer,
    DataLoaderOffer,
    EvaluatorOffer,
    ReporterOffer,
    TechniqueOffer,
)
from tunesmith.options import (
    BaselineOptions,
    DataOptions,
    GateOptions,
    ModelOptions,
    PlanOptions,
    PluginsOptions,
    RunOptions,
    from_table,
)
from tunesmith.plan import Component, O, Plan
from tunesmith.records import Record
from tunesmith.text import did_you_mean

M = TypeVar("M", bound=BaseModel)
CORE_TABLES: dict[str, type[BaseModel]] = {
    "run": RunOptions,
    "model": ModelOptions,
    "baselines": BaselineOptions,
    "gate": GateOptions,
    "plan": PlanOptions,
    "plugins": PluginsOptions,
}
COMPONENT_TABLES = ("data", "technique", "evaluators", "reporters")
_BRANCHES = {"float", "int", "str", "bool", "constrained-float", "constrained-int"}
TABLES = (*CORE_TABLES, *COMPONENT_TABLES)


def make(runfile: RunFile, catalog: Catalog) -> Plan:
    """Turn a run file into a plan.

    Raises:
        ConfigError: with every problem found.
        EnvironmentProblem: a library that a chosen component needs is not installed.
        TunesmithError: what a plugin says about the model, where nothing else is wrong.
        PluginError: a plugin that the run needs is broken.
    """
    reader = _Reader(runfile, catalog)
    plan = reader.read()
    if reader.unusable is not None and len(reader.problems) == 1:
        raise reader.unusable
    if reader.problems or plan is None:
        raise ConfigError(reader.problems)
    lacking = [text for offer in _offers(plan) for text in plugin_finding.missing(offer.needs)]
    if lacking:
        raise EnvironmentProblem("; ".join(lacking), hint="pip install what is missing")
    return plan


def problems_of(error: ValidationError, table: str, model: type[BaseModel]) -> Iterator[Problem]:
    """pydantic's findings as problems of a run file."""
    seen = set()
    for item in error.errors(include_url=False):
        unknown = item["type"] == "extra_forbidden"
        inner = item["loc"][:-1] if unknown else item["loc"]
        path = [str(part) for part in inner if not _union_branch(part, model)]
        if unknown:  # the last part is whatever the user wrote
            path.append(str(item["loc"][-1]))
        where = ".".join([table, *path]) if table else ".".join(path)
        if unknown:
            guess = did_you_mean(path[-1], list(model.model_fields))
            hint = f'did you mean "{guess}"?' if guess else None
            problem = Problem(where, "unknown key", hint)
        elif item["type"] == "missing":
            problem = Problem(where, "must be given")
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            message = message.removeprefix("input ")
            problem = Problem(where, f"{message}, got {item['input']!r}"[:300])
        if problem.where not in seen or unknown:
            seen.add(problem.where)
            yield problem


class _Reader:
    """Reads the tables of one run file and gathers problems as it goes."""

    def __init__(self, runfile: RunFile, catalog: Catalog) -> None:
        self.runfile = runfile
        self.catalog = catalog
        self.problems: list[Problem] = []
        self.unusable: TunesmithError | None = None
        """Why the model cannot be used, where the run file is not to blame."""

    def read(self) -> Plan | None:
        self._refuse_unknown_tables()
        run = self._core("run", RunOptions)
        model = self._core("model", ModelOptions)
        baselines = self._core("baselines", BaselineOptions)
        gate = self._core("gate", GateOptions)
        planning = self._core("plan", PlanOptions)
        plugins = self._core("plugins", PluginsOptions)
        own, data = self._data()
        technique = self._component(TechniqueOffer, "technique", self._table("technique"))
        evaluators = self._components(EvaluatorOffer, "evaluators")
        reporters = self._components(ReporterOffer, "reporters")
        if "reporters" not in self.runfile.tables:
            reporters = self._default_reporters()
        found = None
        if model is not None:
            model = model.model_copy(update={"base": self._beside(model.base)})
            found = self._find_model(model)
        self._required(plugins)
        if self.problems:
            return None
        assert run and model and found and own and data and technique
        assert baselines and gate and planning and plugins
        return Plan(
            run=run.model_copy(update={"name": run.name or _name(self.runfile.stem)}),
            model=model,
            found_model=found,
            data=data,
            holdout=own.holdout,
            technique=technique,
            evaluators=tuple(evaluators),
            reporters=tuple(reporters),
            baselines=baselines,
            gate=gate,
            planning=planning,
            plugins=plugins,
            origins=self.runfile.origins,
        )

    def _refuse_unknown_tables(self) -> None:
        for name in self.runfile.tables:
            if name not in TABLES:
                guess = did_you_mean(name, TABLES)
                hint = f"did you mean [{guess}]?" if guess else f"tables: {', '.join(TABLES)}"
                self.problems.append(Problem(name, "unknown table", hint))

    def _table(self, name: str) -> dict[str, Any]:
        table = self.runfile.tables.get(name, {})
        if not isinstance(table, dict):
            self.problems.append(Problem(name, f"must be a table, got {table!r}"[:200]))
            return {}
        return table

    def _core(self, name: str, options: type[M]) -> M | None:
        return self._validated(name, options, self._table(name))

    def _validated(self, where: str, options: type[M], table: Mapping[str, Any]) -> M | None:
        try:
            checked = from_table(options, table)
        except ValidationError as error:
            self.problems += problems_of(error, where, options)
            return None
        return _absolute(checked, self.runfile.folder)

    def _data(self) -> tuple[DataOptions | None, Component[DataLoaderOffer[Any]] | None]:
        table = self._table("data")
        mine = {key: table[key] for key in DataOptions.model_fields if key in table}
        own = self._validated("data", DataOptions, mine) if "use" in mine else None
        theirs = {key: value for key, value in table.items() if key != "holdout"}
        return own, self._component(DataLoaderOffer, "data", theirs)

    def _component(
        self, kind: type[O], where: str, table: Mapping[str, Any]
    ) -> Component[O] | None:
        if not isinstance(table.get("use"), str):
            known = ", ".join(o.offer.name for o in self.catalog.offers(kind)) or "none installed"
            self.problems.append(Problem(f"{where}.use", f"must name a {kind.kind}", known))
            return None
        try:
            offered = self.catalog.find(kind, table["use"])
        except NotOffered as error:
            self.problems.append(Problem(f"{where}.use", error.what, error.hint))
            return None
        options = {key: value for key, value in table.items() if key != "use"}
        config = self._validated(where, offered.offer.config, options)
        return None if config is None else Component(offered, config, table["use"])

    def _components(self, kind: type[O], where: str) -> list[Component[O]]:
        tables = self.runfile.tables.get(where, [])
        if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
            self.problems.append(Problem(where, f"must be written as [[{where}]]"))
            return []
        made = [self._component(kind, f"{where}.{n}", table) for n, table in enumerate(tables)]
        return [component for component in made if component is not None]

    def _default_reporters(self) -> list[Component[ReporterOffer[Any]]]:
        offers = self.catalog.offers(ReporterOffer)
        return [Component(o, o.offer.config()) for o in offers if o.offer.by_default]

    def _beside(self, reference: str) -> str:
        """A reference that is a path beside the run file, as an absolute path."""
        path = self.runfile.folder / Path(reference).expanduser()
        return str(path) if path.exists() else reference

    def _find_model(self, model: ModelOptions) -> FoundModel | None:
        try:
            found = self.catalog.find_model(model.base, model.revision)
        except PluginError:
            raise
        except TunesmithError as error:
            self.unusable = None if isinstance(error, UsageError) else error
            self.problems.append(Problem("model.base", error.message, error.hint))
            return None
        if found is None:
            self.problems.append(
                Problem(
                    "model.base",
                    f"no model is found at `{model.base}`",
                    "give a folder, a .gguf file, wheel:PACKAGE or a hub id",
                )
            )
        return found

    def _required(self, plugins: PluginsOptions | None) -> None:
        for what in plugin_finding.missing(plugins.require) if plugins else ():
            self.problems.append(Problem("plugins.require", what, "pip install it"))


def default_evaluators(
    catalog: Catalog, records: Sequence[Record]
) -> tuple[Component[EvaluatorOffer[Any]], ...]:
    """The evaluators that suit the records; the first decides the verdict."""
    offers = [o for o in catalog.offers(EvaluatorOffer) if o.offer.suits(records)]
    offers.sort(key=lambda o: not o.offer.metrics[0].higher_is_better)
    return tuple(Component(o, o.offer.config()) for o in offers)


def _offers(plan: Plan) -> Iterator[ConfiguredOffer]:
    yield plan.data.offer
    yield plan.technique.offer
    yield from (component.offer for component in plan.evaluators)
    yield from (component.offer for component in plan.reporters)


def _absolute(options: M, folder: Path) -> M:
    """The options with every path option made absolute."""
    changes = {}
    for name, info in type(options).model_fields.items():
        extra = info.json_schema_extra
        value = options.__dict__[name]
        if isinstance(extra, dict) and extra.get("path"):
            changes[name] = _absolute_value(value, folder)
        elif isinstance(value, BaseModel):
            changes[name] = _absolute(value, folder)
        elif isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
            changes[name] = [_absolute(item, folder) for item in value]
    return options.model_copy(update=changes) if changes else options


def _absolute_value(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return str(folder / Path(value).expanduser())
    if isinstance(value, (list, tuple)):
        return type(value)(_absolute_value(item, folder) for item in value)
    return value


def _union_branch(part: str | int, model: type[BaseModel]) -> bool:
    """Whether a part of pydantic's location names a branch of a union rather than a key."""
    text = str(part)
    return text not in model.model_fields and ("[" in text or text in _BRANCHES)


def _name(stem: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)[:60] or "run"
