"""``tunesmith tune``: search for the options with the best validation score."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith import distributed
from tunesmith.catalog import Catalog
from tunesmith.errors import RunStopped, UsageError
from tunesmith.storage import lock
from tunesmith.text import format_count
from tunesmith_cli import render
from tunesmith_cli.common import CliState
from tunesmith_cli.launch import given_flags
from tunesmith_cli.launch_commands import submit_options
from tunesmith_optuna.findings import (
    SearchResult,
    describe_values,
    shorten_keys,
    show_search_result,
)
from tunesmith_optuna.launchers import ClusterLauncher, Launcher, LocalLauncher
from tunesmith_optuna.options import CHANGEABLE, FLAGS, TuneOptions
from tunesmith_optuna.request import Request, open_study, read_request
from tunesmith_optuna.trial_run import find_options, write_best
from tunesmith_optuna.view import SearchView


@click.command("tune")
@click.argument("run", metavar="RUN.toml|SEARCH", type=click.Path(path_type=Path))
@click.option(
    "--search",
    "searches",
    multiple=True,
    metavar="KEY=VALUES",
    help="An option and its values, such as technique.learning_rate=1e-5:1e-3:log or "
    "technique.adapter.rank=4,8,16. Repeatable; added to tune.search.",
)
@submit_options(
    TuneOptions,
    FLAGS,
    "tune",
    dry_run="Check and print the search space without training.",
    out="Folder to create for the search. Default: a new folder in [run] folder.",
)
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run: Path,
    searches: tuple[str, ...],
    sets: tuple[str, ...],
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Search for the best options of a run, or continue a search.

    Each trial is a run with different options, scored on the validation rows. Test rows are not
    used. The best options are written as a run file: `tunesmith run` trains with them again and
    scores the model on the test rows. Ctrl-C stops the trials after their current step; continue
    with `tunesmith tune SEARCH`.
    """
    if distributed.world_size() > 1:
        raise UsageError(
            "tune: this command starts its processes itself",
            hint="start the command without torchrun",
        )
    flags = given_flags(click.get_current_context())
    if run.is_dir():
        if sets or searches or out or flags.keys() - CHANGEABLE:
            raise UsageError(
                f"{run}: the search space and the run file of an existing search cannot be changed",
                hint=f"start a new search, or change only: {', '.join(sorted(CHANGEABLE))}",
            )
        request = open_study(run, flags)
    else:
        request = read_request(state, run, sets, searches, flags)
    launcher = find_launcher(request.options, request.catalog)
    request.check_space(out)
    if dry_run:
        show_plan(request, as_json=as_json)
        return
    folder = request.create_folder(out)
    found = execute(request, launcher, folder, quiet=state.quiet)
    if found.ranking:
        write_best(request.plan, found.ranking[0].options, found.run_file, found.describe_best())
    if as_json:
        render.print_json(found.to_json())
    else:
        show_search_result(found)


def find_launcher(options: TuneOptions, catalog: Catalog) -> Launcher:
    """Return the launcher that runs the trials.

    Raises:
        UsageError: no plugin supports the cluster.
    """
    if options.on:
        return ClusterLauncher.find(options.on, catalog)
    return LocalLauncher(options.parallel)


def show_plan(request: Request, *, as_json: bool) -> None:
    """Print the search space, and the number of trials, objective and pruner of the search."""
    options, space = request.options, request.options.space
    if as_json:
        content = {"options": options.model_dump(mode="json"), "combinations": space.size}
        render.print_json({"schema": "tunesmith.tune-plan/1", **content})
        return
    rows = [[dimension.key, describe_values(dimension)] for dimension in space.dimensions]
    render.print_table(["option", "values"], rows)
    metric = request.objective.metric
    direction = "highest" if metric.higher_is_better else "lowest"
    count = "infinitely many" if space.size is None else f"{space.size:,}"
    render.print_text()
    render.print_paragraph(
        f"{format_count(options.trials, 'trial')} out of {count} combinations, {options.parallel} "
        f"at a time {f'on {options.on}' if options.on else 'on this machine'}; objective: "
        f"{direction} {metric.name} on the validation rows; pruner: {options.pruner}"
    )


def execute(request: Request, launcher: Launcher, folder: Path, *, quiet: bool) -> SearchResult:
    """Run the trials of a search, and return the findings.

    Raises:
        RunStopped: a signal stopped the search.
    """
    # Imported here because Optuna is slow to import, and a dry run does not need it.
    from tunesmith_optuna.search import Search
    from tunesmith_optuna.study import FOLDER, Study

    plan, options, objective = request.plan, request.options, request.objective
    space, names = options.space, shorten_keys(options.space)
    first = space.encode(find_options(plan, names))
    (folder / FOLDER).mkdir(exist_ok=True)
    with lock(folder / FOLDER):
        seed = plan.run.seed if options.seed is None else options.seed
        study = Study(folder, space, objective.direction, options.pruner, seed)
        render.print_note(f"search folder: {folder}")
        try:
            with SearchView(objective, names, quiet=quiet) as view:
                Search(study, request.runs(folder), launcher, options, view, first).run()
        except RunStopped as error:
            error.message += "; its jobs continue to run" if launcher.leaves_runs else ""
            error.hint = f"continue with: tunesmith tune {render.shell_path(folder)}"
            raise
        rows = study.rows()
        own = space.decode(first) if first else None
        return SearchResult(
            folder, objective, names, rows, study.sort(rows), study.importances(), own
        )
