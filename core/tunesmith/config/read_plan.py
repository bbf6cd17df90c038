"""Turn a run file into a plan: typed, checked and printable, without importing torch.

Every table has one owner, whose options class validates it. The core owns ``run``, ``model``,
``baselines``, ``gate``, ``plugins``, and two keys each of ``data`` and ``evaluators``. Other tables
belong to the component that ``use`` names, or to the plugin that offers the table. All problems are
reported together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tunesmith.additions import Addition
from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.config.evaluators import Evaluators, assign_ids, check_gate_metrics, check_must_beat
from tunesmith.config.paths import with_absolute_paths
from tunesmith.config.problems import convert_problems
from tunesmith.config.run_file import RunFile, dotted_items
from tunesmith.contracts import FoundModel
from tunesmith.data.units import FindClusters, cluster_each_record
from tunesmith.errors import (
    ConfigError,
    EnvironmentProblem,
    PluginError,
    Problem,
    TunesmithError,
    UsageError,
)
from tunesmith.fence import attribute_errors_to
from tunesmith.machine import expand_home
from tunesmith.offers import (
    RUN_FILE_TABLES,
    BaselineOffer,
    ComponentOffer,
    DataLoaderOffer,
    EncoderOffer,
    EvaluatorOffer,
    Offered,
    ReporterOffer,
    SplitterOffer,
    TableOffer,
    TechniqueOffer,
)
from tunesmith.options import (
    BaselineOptions,
    DataOptions,
    EvaluatorKeys,
    GateOptions,
    ModelOptions,
    PluginsOptions,
    RunOptions,
    from_table,
)
from tunesmith.plan import Component, Plan
from tunesmith.plugins import missing_requirements
from tunesmith.storage import RunFolder
from tunesmith.text import suggest_name

M = TypeVar("M", bound=BaseModel)
K = TypeVar("K", bound=ComponentOffer[Any])
CORE_TABLES: dict[str, type[BaseModel]] = {
    "run": RunOptions,
    "model": ModelOptions,
    "baselines": BaselineOptions,
    "gate": GateOptions,
    "plugins": PluginsOptions,
}
"""The tables of the core; it also owns some keys of ``data`` and ``evaluators``."""


def make_plan(
    runfile: RunFile, catalog: Catalog, *, stored: bool = False, runnable: bool = True
) -> Plan:
    """Turn a run file into a plan.

    Args:
        stored: True for the run file of an earlier run. A missing plugin file is then an error only
            if the run needs it.
        runnable: if False, accept a plan whose libraries are not installed. The libraries of its
            data loader are always required.

    Raises:
        ConfigError: lists every problem found.
        EnvironmentProblem: a library that a chosen component needs is not installed.
        TunesmithError: a plugin cannot use the model, and the run file has no other problem.
        PluginError: a plugin that the run needs is broken.
    """
    reader = _Reader(runfile, catalog, stored)
    plan = reader.read()
    if reader.model_error is not None and len(reader.problems) == 1:
        raise reader.model_error
    if reader.problems or plan is None:
        raise ConfigError([_with_variable(problem, runfile) for problem in reader.problems])
    needed = list_requirements(plan, catalog).values() if runnable else (plan.data.offer.needs,)
    if missing := missing_requirements(dict.fromkeys(chain(*needed))):
        raise EnvironmentProblem("; ".join(missing), hint="install these packages with pip")
    return plan


def list_requirements(plan: Plan, catalog: Catalog) -> dict[str, tuple[str, ...]]:
    """Map the name of each component and plugin that a run of the plan uses to its requirements.

    Reviews are not included: a review that cannot run is a warning of the run.
    """
    offers: list[ComponentOffer[Any]] = [plan.data.offer, plan.split.offer, plan.technique.offer]
    if plan.baseline_options.use is not None:
        offers += [baseline.offer for baseline in plan.baselines]
    if plan.encoder is not None and plan.encoder.use:
        offers.append(plan.encoder.offer)
    offers += [evaluator.offer for evaluator in plan.evaluators]
    offers += [reporter.offer for reporter in plan.reporters]
    offers += islice(_cluster_finders(catalog, plan.split.offer), 1)
    needs = {f"{offer.kind} {offer.name}": offer.needs for offer in offers}
    judges = (plugin for plugin, _ in catalog.plugins.implementations("tunesmith_verdict"))
    return needs | {plugin.full_name: plugin.needs for plugin in judges}


def _with_variable(problem: Problem, runfile: RunFile) -> Problem:
    """Add to a problem the environment variable that it comes from, which is easily forgotten."""
    origin = runfile.origins.get(problem.where, "")
    if not origin.startswith("environment variable"):
        return problem
    return replace(problem, what=f"{problem.what}; it comes from the {origin}")


class _Reader:
    """Reads the tables of one run file and collects problems."""

    def __init__(self, runfile: RunFile, catalog: Catalog, stored: bool) -> None:
        self.runfile = runfile
        self.catalog = catalog
        self.stored = stored
        self.problems: list[Problem] = []
        self.model_error: TunesmithError | None = None
        """The error that makes the model unusable, if the run file did not cause it."""

    def read(self) -> Plan | None:
        tables = self._plugin_tables()
        run = self._core_table("run", RunOptions)
        model = self._core_table("model", ModelOptions)
        baseline_options, baselines = self._baselines()
        encoder = self._encoder()
        gate = self._core_table("gate", GateOptions)
        plugins = self._core_table("plugins", PluginsOptions)
        data_options, data = self._data()
        split = self._component(SplitterOffer, "split", self._split_table())
        technique = self._component(TechniqueOffer, "technique", self._table("technique"))
        additions = self._additions(tables, technique)
        if gate is not None:
            self.problems += check_must_beat(gate, [baseline.use for baseline in baselines])
        evaluators = self._evaluators(gate)
        reporters = self._reporters()
        found = None
        if model is not None:
            model = model.model_copy(update={"base": self._resolve_path(model.base)})
            found = self._find_model(model)
        self._check_required(plugins)
        if self.problems:
            return None
        assert run and model and found and data_options and data and split and technique
        assert baseline_options and gate and plugins
        stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.runfile.stem)[:60]
        return Plan(
            run=run.model_copy(update={"name": run.name or stem or "run"}),
            model=model,
            found_model=found,
            data=data,
            test_size=data_options.test_size,
            split=split,
            technique=technique,
            evaluators=evaluators,
            reporters=tuple(reporters),
            baseline_options=baseline_options,
            baselines=tuple(baselines),
            encoder=encoder,
            gate=gate,
            tables=tuple(tables),
            plugins=plugins,
            origins={"data.use": "data.train", **self.runfile.origins},
            find_clusters=self._choose_clusters(split.offer),
            additions=additions,
        )

    def _plugin_tables(self) -> list[Component[TableOffer[Any]]]:
        """Read the plugins' own tables; report a problem for each table that no plugin owns."""
        owned = self.catalog.by_key(TableOffer)
        for name in self.runfile.tables:
            if name not in RUN_FILE_TABLES and name not in owned:
                self.problems.append(self._unknown_table(name, owned))
        found = []
        for name, offered in owned.items():
            with attribute_errors_to(offered.plugin, " in its options"):
                options = self._validate(name, offered.offer.config, self._table(name))
            if options is not None:
                found.append(Component(offered, options, name))
        return found

    def _additions(
        self,
        tables: Sequence[Component[TableOffer[Any]]],
        technique: Component[TechniqueOffer[Any]] | None,
    ) -> tuple[Addition, ...]:
        """Return the additions that tables make to the training; report unsupported additions."""
        found = []
        for table in tables:
            blame = partial(attribute_errors_to, table.offered.plugin, f" in [{table.use}]")
            with blame():
                addition = table.offer.addition(table.config)
                if addition is not None:
                    found.append(replace(addition, table=table.use, blame=blame))
        if technique is not None and not technique.offer.accepts_additions:
            offers = self.catalog.offers(TechniqueOffer)
            able = ", ".join(o.offer.name for o in offers if o.offer.accepts_additions) or "none"
            what = f"technique {technique.use} does not support tables that add to the training"
            hint = f"remove the table, or use a technique that supports it: {able}"
            self.problems += [Problem(addition.table, what, hint) for addition in found]
        return tuple(found)

    def _unknown_table(self, name: str, owned: Mapping[str, Offered[TableOffer[Any]]]) -> Problem:
        for plugin in self.catalog.plugins.found:
            if plugin.name == name and plugin.state != "active":
                hint = f'the plugin "{plugin.full_name}" is {plugin.state}: {plugin.reason}'
                return Problem(name, "unknown table", hint)
        known = [*RUN_FILE_TABLES, *owned]
        guess = suggest_name(name, known)
        hint = f"did you mean [{guess}]?" if guess else f"installed: {', '.join(known)}"
        return Problem(name, "unknown table", hint)

    def _table(self, name: str) -> dict[str, Any]:
        table = self.runfile.tables.get(name, {})
        if not isinstance(table, dict):
            self.problems.append(Problem(name, f"must be a table, got {table!r}"[:200]))
            return {}
        return table

    def _core_table(self, name: str, options: type[M]) -> M | None:
        return self._validate(name, options, self._table(name))

    def _validate(self, where: str, options: type[M], table: Mapping[str, Any]) -> M | None:
        try:
            checked = from_table(options, table)
        except ValidationError as error:
            self.problems += convert_problems(error, where, options)
            return None
        return with_absolute_paths(checked, self.runfile.folder)

    def _data(self) -> tuple[DataOptions | None, Component[DataLoaderOffer[Any]] | None]:
        table = self._table("data")
        core_keys = {key: table[key] for key in DataOptions.model_fields if key in table}
        options = self._validate("data", DataOptions, core_keys)
        loader_keys = {key: value for key, value in table.items() if key != "test_size"}
        if "use" not in table and (train := table.get("train")):
            names = map(self._resolve_path, train if isinstance(train, list) else [train])
            loader_keys["use"] = self.catalog.recognize([*names])
        return options, self._component(DataLoaderOffer, "data", loader_keys)

    def _split_table(self) -> dict[str, Any]:
        """Read the ``[split]`` table; use the default splitter if it does not name one."""
        offers = self.catalog.offers(SplitterOffer)
        default = next((o.full_name for o in offers if o.offer.by_default), None)
        return {**({"use": default} if default else {}), **self._table("split")}

    def _choose_clusters(self, chosen: SplitterOffer[Any]) -> FindClusters:
        """Return the function that finds clusters, from the chosen or a default splitter.

        If neither has one, each record is a cluster.
        """
        found = (offer.find_clusters for offer in _cluster_finders(self.catalog, chosen))
        return next(filter(None, found), cluster_each_record)

    def _component(
        self, kind: type[K], where: str, table: Mapping[str, Any]
    ) -> Component[K] | None:
        if not isinstance(table.get("use"), str):
            known = ", ".join(o.offer.name for o in self.catalog.offers(kind)) or "none"
            what = f"must name an installed {kind.kind}"
            self.problems.append(Problem(f"{where}.use", what, f"installed: {known}"))
            return None
        try:
            offered = self.catalog.find(kind, table["use"])
        except OfferNotFoundError as error:
            self.problems.append(Problem(f"{where}.use", error.what, error.hint))
            return None
        options = {key: value for key, value in table.items() if key != "use"}
        with attribute_errors_to(offered.plugin, " in its options"):
            config = self._validate(where, offered.offer.config, options)
        return None if config is None else Component(offered, config, table["use"])

    def _tables(self, where: str) -> list[dict[str, Any]]:
        tables = self.runfile.tables.get(where, [])
        if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
            self.problems.append(Problem(where, f"must be written as [[{where}]]"))
            return []
        return tables

    def _evaluators(self, gate: GateOptions | None) -> Evaluators:
        """Read the evaluators and assign their ids; check the metrics of ``[gate]``.

        Default evaluators are chosen later, when the data is read.
        """
        found: list[tuple[Component[EvaluatorOffer[Any]], str | None]] = []
        ids: list[str | None] = []
        for number, table in enumerate(self._tables("evaluators")):
            where = f"evaluators.{number}"
            core_keys = {"use": "any", **{key: table[key] for key in table if key == "id"}}
            keys = self._validate(where, EvaluatorKeys, core_keys)
            own_id = keys.id if keys else None
            if own_id is not None and own_id in ids:
                what = f'"{own_id}" is already the id of evaluators.{ids.index(own_id)}'
                hint = "give each evaluator its own id"
                self.problems.append(Problem(f"{where}.id", what, hint))
            ids.append(own_id)
            own_keys = {key: value for key, value in table.items() if key != "id"}
            component = self._component(EvaluatorOffer, where, own_keys)
            if component is not None:
                found.append((component, own_id))
        evaluators = assign_ids(found)
        if gate is not None and found and len(found) == len(ids):
            self.problems += check_gate_metrics(gate, evaluators)
        return evaluators

    def _baselines(self) -> tuple[BaselineOptions | None, list[Component[BaselineOffer[Any]]]]:
        """Read the core's keys of ``[baselines]``, and the options of each baseline in it."""
        table = self._table("baselines")
        offers = self.catalog.by_key(BaselineOffer)
        own = {key: value for key, value in table.items() if key not in offers}
        options = self._validate("baselines", BaselineOptions, own)
        named = options.use if options else None
        baselines = []
        for name in offers if named is None else named:
            config = table.get(name, {})
            if not isinstance(config, dict):
                what = f"must be a table, got {config!r}"[:200]
                self.problems.append(Problem(f"baselines.{name}", what))
                continue
            where = f"baselines.{name}" if name in offers else "baselines"
            baselines.append(self._component(BaselineOffer, where, {**config, "use": name}))
        self.problems += [
            Problem(
                f"baselines.{name}",
                "has no effect, because baselines.use does not name it",
                f'add "{name}" to baselines.use',
            )
            for name in table
            if named is not None and name in offers and name not in named
        ]
        return options, [baseline for baseline in baselines if baseline is not None]

    def _encoder(self) -> Component[EncoderOffer[Any]] | None:
        """Return the encoder of ``[encoder]``, otherwise an installed encoder, or None."""
        if "encoder" in self.runfile.tables:
            return self._component(EncoderOffer, "encoder", self._table("encoder"))
        for offered in self.catalog.offers(EncoderOffer):
            with attribute_errors_to(offered.plugin, " in is_installed"):
                config = offered.offer.config()
                if offered.offer.is_installed(config) and not missing_requirements(
                    offered.offer.needs
                ):
                    return Component(offered, config)
        return None

    def _reporters(self) -> list[Component[ReporterOffer[Any]]]:
        """Return the named or the default reporters, plus the reporters that every run uses."""
        tables = enumerate(self._tables("reporters"))
        named = [self._component(ReporterOffer, f"reporters.{n}", table) for n, table in tables]
        chosen = [component for component in named if component is not None]
        self._check_report_paths(chosen)
        use_default = "reporters" not in self.runfile.tables
        for offered in sorted(self.catalog.offers(ReporterOffer), key=lambda o: o.offer.always):
            used = offered.offer.always or (use_default and offered.offer.by_default)
            if used and offered not in [component.offered for component in chosen]:
                chosen.append(Component(offered, offered.offer.config()))
        return chosen

    def _check_report_paths(self, reporters: Sequence[Component[ReporterOffer[Any]]]) -> None:
        """Report a problem if a reporter's option ``path`` names a file that it must not write.

        A reporter must not write files of the run itself, files that the run reads, or a file that
        another reporter writes. By convention, ``path`` is the file that a reporter writes.
        """
        folder = RunFolder(
            self.runfile.folder / "run"
        )  # stands for the run folder, not yet created
        writers: dict[Path, int] = {}
        for number, reporter in enumerate(reporters):
            path = reporter.to_json().get("path")
            if not isinstance(path, str) or path == "-":
                continue
            try:
                target = folder.resolve_report_path(path)
            except UsageError as error:
                what = error.message
            else:
                first = writers.setdefault(target, number)
                what = f"reporters.{first} already writes to this file" if first != number else ""
                what = "the run reads this file" if self._is_input(target) else what
                what = "must be a file, not a folder" if target.is_dir() else what
            if what:
                self.problems.append(Problem(f"reporters.{number}.path", f"{what}, got {path!r}"))

    def _is_input(self, target: Path) -> bool:
        """Return True if the run file names this file in any table other than ``reporters``."""
        for key, value in dotted_items(self.runfile.tables):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and not key.startswith("reporters."):
                    path = self.runfile.folder / expand_home(text)
                    if os.path.normpath(path) == str(target):
                        return True
        return False

    def _resolve_path(self, reference: str) -> str:
        """Return a reference as an absolute path if this path exists, otherwise unchanged.

        Relative paths start at the run file's folder.
        """
        path = self.runfile.folder / expand_home(str(reference))
        return str(path) if os.path.exists(path) else reference

    def _find_model(self, model: ModelOptions) -> FoundModel | None:
        try:
            found = self.catalog.find_model(model.base, model.revision)
        except PluginError:
            raise
        except TunesmithError as error:
            self.model_error = None if isinstance(error, UsageError) else error
            self.problems.append(Problem("model.base", error.message, error.hint))
            return None
        if found is None:
            self.problems.append(
                Problem(
                    "model.base",
                    f"no model found at `{model.base}`",
                    "use a folder, a .gguf file, wheel:PACKAGE or a hub id",
                )
            )
        return found

    def _check_required(self, plugins: PluginsOptions | None) -> None:
        if plugins is None:
            return
        for text in missing_requirements(plugins.require):
            self.problems.append(Problem("plugins.require", text, "install it with pip"))
        files = () if self.stored else plugins.files
        for plugin in self.catalog.plugins.broken():
            if plugin.module in files:
                what = f"{plugin.module} cannot be loaded: {plugin.reason}"
                self.problems.append(Problem("plugins.files", what))


def _cluster_finders(catalog: Catalog, chosen: SplitterOffer[Any]) -> Iterator[SplitterOffer[Any]]:
    """Yield the chosen and default splitters that can find clusters, the chosen splitter first."""
    defaults = (o.offer for o in catalog.offers(SplitterOffer) if o.offer.by_default)
    return (offer for offer in (chosen, *defaults) if offer.find_clusters)
