"""A search as it was asked for: a run file with a search space, or the folder of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith import api
from tunesmith.catalog import Catalog
from tunesmith.config.run_file import read_run_file
from tunesmith.config.trust import require_trusted, trust_code
from tunesmith.errors import ConfigError, DataError, Problem, UsageError
from tunesmith.execution.execute import collect_findings
from tunesmith.execution.run_data import load_data
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder, write_atomic
from tunesmith.text import format_count
from tunesmith_cli import render
from tunesmith_cli.common import CliState
from tunesmith_cli.launch import override_options
from tunesmith_optuna.options import TuneOptions
from tunesmith_optuna.space import read_argument
from tunesmith_optuna.trial_run import Objective, TrialRuns, find_objective, name_keys
from tunesmith_optuna.validation_part import NO_VALIDATION_ROWS, VALIDATION_HINT

PLAN = "plan.toml"
"""The run file that is tuned, in the folder of a search: its keys, and those that were given."""
VALIDATION_SHARE = 0.2
"""Share of the rows that are not test rows, as validation rows where the run file leaves none."""


@dataclass(frozen=True)
class Request:
    """A search as it was asked for."""

    plan: Plan
    """The run that is tuned; its table ``[tune]`` has the options of the command line, too."""
    catalog: Catalog
    objective: Objective
    folder: Path | None = None
    """The folder of the search, if it exists."""

    @property
    def options(self) -> TuneOptions:
        """The options of the search."""
        return self.plan.table(TuneOptions)

    def runs(self, folder: Path) -> TrialRuns:
        """Return what makes the runs of the trials, in the folder of the search."""
        return TrialRuns(folder / PLAN, self.plan, self.objective)

    def check_space(self, out: Path | None) -> None:
        """Check the values of the search space before anything is written or trained.

        Raises:
            ConfigError: the technique cannot have one of them.
        """
        planned = self.folder or out or Path(self.plan.run.folder) / "STUDY"
        self.runs(planned.absolute()).check_space(self.options.space)

    def create_folder(self, out: Path | None) -> Path:
        """Return the folder of the search; create it, with the run file, if there is none."""
        if self.folder is not None:
            return self.folder
        import tomli_w

        plan = self.plan
        named = None if out is None else api.create_run_folder(plan, out)
        folder = named or RunFolder.create(Path(plan.run.folder), f"{plan.name}-tune")
        tables = {**name_keys(plan), "tune": self.options.model_dump(exclude_none=True)}
        trust_code(tables, folder.path)  # first: a search that has a file can be resumed
        write_atomic(folder.path / PLAN, tomli_w.dumps(tables))
        return folder.path.absolute()


def read_request(
    state: CliState,
    run_file: Path,
    sets: Sequence[str],
    searches: Sequence[str],
    flags: Mapping[str, str | int],
) -> Request:
    """Read a run file and the options of the search; check both, and the data.

    Raises:
        ConfigError: the run file, the search space or a value in it is wrong.
        DataError: the data is unusable, or has no validation rows.
    """
    plan, catalog = api.load_plan(run_file, sets=sets, files=state.files, disabled=state.disabled)
    options = change_options(plan.table(TuneOptions), flags, searches)
    if not options.search:
        raise ConfigError(
            [Problem("tune.search", "names no option to search")],
            hint="--search technique.learning_rate=1e-5:1e-3:log, or a table [tune.search]",
        )
    objective = find_objective(plan, catalog, options.metric)
    api.refuse_unrunnable(plan)

    def load(more: Sequence[str]) -> Plan:
        given = [*sets, *more]
        return api.load_plan(run_file, sets=given, files=state.files, disabled=state.disabled)[0]

    plan = review_data(plan, catalog, load)
    return Request(change_table(plan, options), catalog, objective)


def open_study(folder: Path, flags: Mapping[str, str | int]) -> Request:
    """Open the folder of a search.

    Raises:
        UsageError: it is not one.
    """
    path = folder / PLAN
    if not path.is_file():
        raise UsageError(
            f"{folder}: is not the folder of a search",
            hint="`tunesmith tune RUN.toml` prints it; a run is continued by `tunesmith resume`",
        )
    tables = read_run_file(path, environment={}).tables
    require_trusted(tables, folder)
    plan, catalog = api.load_plan(path)
    options = change_options(plan.table(TuneOptions), flags, ())
    objective = find_objective(plan, catalog, options.metric)
    return Request(change_table(plan, options), catalog, objective, folder.absolute())


def change_options(
    options: TuneOptions, flags: Mapping[str, str | int], searches: Sequence[str]
) -> TuneOptions:
    """Return the options with those of the command line.

    Raises:
        ConfigError: an option has a value that it cannot have.
        UsageError: ``--search`` cannot be read.
    """
    search: dict[str, Any] = dict(options.search)
    try:
        search |= dict(map(read_argument, searches))
    except ValueError as error:
        raise UsageError(f"--search {error}") from None
    return override_options(options, {**flags, "search": search}, "tune")


def change_table(plan: Plan, options: TuneOptions) -> Plan:
    """Return the plan with other options of the search."""
    tables = tuple(
        replace(table, config=options) if isinstance(table.config, TuneOptions) else table
        for table in plan.tables
    )
    return replace(plan, tables=tables)


def review_data(plan: Plan, catalog: Catalog, load: Callable[[Sequence[str]], Plan]) -> Plan:
    """Load, split and review the data once for all trials; return the plan with validation rows.

    ``load`` reads the run file with more values for its keys.

    Raises:
        ConfigError: a review found errors.
        DataError: there are no validation rows.
    """
    dataset, parts = load_data(plan)
    if not parts.validation and plan.split.config.model_dump().get("validation_size", 0) is None:
        plan = load([f"split.validation_size={VALIDATION_SHARE}"])
        dataset, parts = load_data(plan)
        render.print_note(
            f"{format_count(len(parts.validation), 'row')} of "
            f"{len(parts.train) + len(parts.validation):,} are "
            "validation rows, which choose between trials "
            f"(split.validation_size = {VALIDATION_SHARE})"
        )
    if not parts.validation:
        raise DataError("data", NO_VALIDATION_ROWS, hint=VALIDATION_HINT)
    findings = [*collect_findings(plan, catalog, dataset, parts)]
    errors = [Problem(n.source, n.text) for n in findings if n.level == "error"]
    if errors:
        raise ConfigError(errors)
    for finding in findings:
        if finding.level == "warning":
            # Without examples, which `tunesmith check` shows: nothing can be done about them here.
            render.print_note(f"warning: {finding.message}", style="warning")
    return plan
