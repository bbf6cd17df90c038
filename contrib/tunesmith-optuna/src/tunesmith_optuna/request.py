"""Read a requested search from a run file with a search space, or from a search folder."""

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
from tunesmith_optuna.trial_run import Objective, TrialRuns, find_objective, select_named_keys
from tunesmith_optuna.validation_part import NO_VALIDATION_ROWS, VALIDATION_HINT

PLAN = "plan.toml"
"""File in a search folder: the run file to tune, with all keys that the user set."""
VALIDATION_SHARE = 0.2
"""Share of the rows used for validation if the run file does not set a validation size."""


@dataclass(frozen=True)
class Request:
    """A requested search, with its plan, its objective and its folder."""

    plan: Plan
    """The run to tune; its ``[tune]`` table includes the command-line options."""
    catalog: Catalog
    objective: Objective
    folder: Path | None = None
    """The search folder, if it already exists."""

    @property
    def options(self) -> TuneOptions:
        """The ``[tune]`` table, with the command-line options."""
        return self.plan.table(TuneOptions)

    def runs(self, folder: Path) -> TrialRuns:
        """Return the object that creates the runs of the trials in the search folder."""
        return TrialRuns(folder / PLAN, self.plan, self.objective)

    def check_space(self, out: Path | None) -> None:
        """Check the values in the search space before anything is written or trained.

        Raises:
            ConfigError: the technique does not accept one of the values.
        """
        planned = self.folder or out or Path(self.plan.run.folder) / "STUDY"
        self.runs(planned.absolute()).check_space(self.options.space)

    def create_folder(self, out: Path | None) -> Path:
        """Return the search folder, creating it with its run file if it does not exist."""
        if self.folder is not None:
            return self.folder
        import tomli_w

        plan = self.plan
        named = None if out is None else api.create_run_folder(plan, out)
        folder = named or RunFolder.create(Path(plan.run.folder), f"{plan.name}-tune")
        tables = {**select_named_keys(plan), "tune": self.options.model_dump(exclude_none=True)}
        trust_code(tables, folder.path)  # First, because a search with a plan file can be resumed.
        write_atomic(folder.path / PLAN, tomli_w.dumps(tables))
        return folder.path.absolute()


def read_request(
    state: CliState,
    run_file: Path,
    sets: Sequence[str],
    searches: Sequence[str],
    flags: Mapping[str, str | int],
) -> Request:
    """Read a run file and the options of a search, and check them and the data.

    Raises:
        ConfigError: the run file, the search space or one of its values is not valid.
        DataError: the data cannot be read, or contains no validation rows.
    """
    plan, catalog = api.load_plan(run_file, sets=sets, files=state.files, disabled=state.disabled)
    options = change_options(plan.table(TuneOptions), flags, searches)
    if not options.search:
        raise ConfigError(
            [Problem("tune.search", "the run file does not state which options to search")],
            hint="add --search technique.learning_rate=1e-5:1e-3:log, or a table [tune.search]",
        )
    objective = find_objective(plan, catalog, options.metric)
    api.require_runnable(plan)

    def load(more: Sequence[str]) -> Plan:
        given = [*sets, *more]
        return api.load_plan(run_file, sets=given, files=state.files, disabled=state.disabled)[0]

    plan = review_data(plan, catalog, load)
    return Request(change_table(plan, options), catalog, objective)


def open_study(folder: Path, flags: Mapping[str, str | int]) -> Request:
    """Open an existing search folder.

    Raises:
        UsageError: the folder is not a search folder.
    """
    path = folder / PLAN
    if not path.is_file():
        raise UsageError(
            f"{folder}: this is not a search folder",
            hint="use the folder that `tunesmith tune RUN.toml` printed; to continue a single run, "
            "use `tunesmith resume`",
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
    """Return the options, updated from the command line.

    Raises:
        ConfigError: an option has a value that is not allowed.
        UsageError: ``--search`` is malformed.
    """
    search: dict[str, Any] = dict(options.search)
    try:
        search |= dict(map(read_argument, searches))
    except ValueError as error:
        raise UsageError(f"--search {error}") from None
    return override_options(options, {**flags, "search": search}, "tune")


def change_table(plan: Plan, options: TuneOptions) -> Plan:
    """Return the plan with these search options in its ``[tune]`` table."""
    tables = tuple(
        replace(table, config=options) if isinstance(table.config, TuneOptions) else table
        for table in plan.tables
    )
    return replace(plan, tables=tables)


def review_data(plan: Plan, catalog: Catalog, load: Callable[[Sequence[str]], Plan]) -> Plan:
    """Load, split and review the data once for all trials; return a plan with validation rows.

    ``load`` is a function that reads the run file again with additional values.

    Raises:
        ConfigError: a review found errors.
        DataError: the data has no validation rows.
    """
    dataset, parts = load_data(plan)
    if not parts.validation and plan.split.config.model_dump().get("validation_size", 0) is None:
        plan = load([f"split.validation_size={VALIDATION_SHARE}"])
        dataset, parts = load_data(plan)
        render.print_note(
            f"{format_count(len(parts.validation), 'row')} of "
            f"{len(parts.train) + len(parts.validation):,} are used as validation rows, to choose "
            f"between trials (split.validation_size = {VALIDATION_SHARE})"
        )
    if not parts.validation:
        raise DataError("data", NO_VALIDATION_ROWS, hint=VALIDATION_HINT)
    findings = [*collect_findings(plan, catalog, dataset, parts)]
    errors = [Problem(n.source, n.text) for n in findings if n.level == "error"]
    if errors:
        raise ConfigError(errors)
    for finding in findings:
        if finding.level == "warning":
            # No examples, because the user cannot act on them here and `tunesmith check` shows
            # them.
            render.print_note(f"warning: {finding.message}", style="warning")
    return plan
