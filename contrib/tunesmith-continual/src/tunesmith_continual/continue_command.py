"""``tunesmith continue``: train the next task of a chain, and measure all earlier ones again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tunesmith import api, distributed
from tunesmith.config.run_file import read_run_file
from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.storage import write_atomic
from tunesmith_cli import render
from tunesmith_cli.common import CliState, start_options
from tunesmith_continual.budget import Point, find_divergence, fit_slope
from tunesmith_continual.chain import Task, read_chain
from tunesmith_continual.findings import ChainFindings, show_findings
from tunesmith_continual.measure import FOLDER, read_matrix


@click.command("continue")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument(
    "new", metavar="[NEW.toml]", required=False, type=click.Path(path_type=Path, dir_okay=False)
)
@start_options
def command(
    state: CliState,
    run: Path,
    new: Path | None,
    sets: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Train the next task from RUN's model, and measure the test rows of all earlier tasks again.

    NEW.toml is the run file of the next task. It needs at least [data]; the model and the technique
    are those of RUN unless it names others. Training starts from RUN's tuned model. Each earlier
    task is measured with its own test rows, evaluators and settings.

    Without NEW.toml, RUN is the last run of a chain: it is resumed if it is unfinished, whatever
    has not been measured yet is measured, and the results are shown.
    """
    if distributed.world_size() > 1:
        raise UsageError(
            "continue: runs only in a single process", hint="start it without torchrun"
        )
    if new is None:
        if sets or out:
            raise UsageError(
                "--set and --out need a NEW.toml", hint="tunesmith continue RUN NEW.toml"
            )
        last = finish(state, run)
    else:
        last = train_next(state, run, new, sets, out)
    chain = read_chain(last)
    matrix = read_matrix(chain, quiet=state.quiet)
    findings = ChainFindings(chain, matrix)
    folder = write_findings(findings)
    if as_json:
        render.print_json(findings.to_json())
        return
    show_findings(findings)
    render.print_note(f"\npage: {folder / 'page.html'}\ncard: {folder / 'card.md'}")


def finish(state: CliState, run: Path) -> Task:
    """Return a run, resumed if it is unfinished."""
    last = Task.open(run, state.files, state.disabled)
    if last.report.status != "ok":
        plan = state.apply_quiet(last.plan)
        api.continue_run(last.run, plan, last.catalog)
        last = Task.open(run, state.files, state.disabled)
    return last


def train_next(
    state: CliState, run: Path, new: Path, sets: Sequence[str], out: Path | None
) -> Task:
    """Train the next task, and return its run.

    Raises:
        UsageError: the run before is unfinished.
    """
    before = Task.open(run, state.files, state.disabled)
    if before.report.status != "ok":
        raise UsageError(
            f"{run}: the run is not finished", hint=f"tunesmith continue {render.shell_path(run)}"
        )
    chain = read_chain(before)
    given = read_run_file(new, sets=sets)
    # As TOML values, so that they have the form of --set.
    added = {key: json.dumps(value) for key, value in inherited(before, given.tables).items()}
    if "retention" in given.tables:
        table = given.tables["retention"]
        if "earlier" not in table:
            added["retention.earlier"] = json.dumps([str(task.path.resolve()) for task in chain])
        if "budget" in table and "budget_slope" not in table:
            added["retention.budget_slope"] = json.dumps(predict_slope(chain, state.quiet))
            score = read_matrix(chain, quiet=state.quiet).score_after(len(chain) - 1)
            if score is not None:
                added["retention.budget_score"] = json.dumps(score)
    plan, catalog = api.load_plan(
        new,
        sets=[*(f"{key}={value}" for key, value in added.items()), *sets],
        files=state.files,
        disabled=state.disabled,
    )
    plan = state.apply_quiet(plan)
    api.require_runnable(plan)
    folder = api.create_run_folder(plan, out)
    render.print_note(f"run folder: {folder.path}")
    execute.run(plan, catalog, folder)
    return Task.open(folder.path, state.files, state.disabled)


def inherited(before: Task, tables: Any) -> dict[str, Any]:
    """Return the previous run's keys that the new run file lacks, and its model as ``from``."""
    stored = before.plan.to_json()
    keys = {"model.base": stored["model"]["base"]} if "model" not in tables else {}
    if "use" not in tables.get("technique", {}):
        named = [key for key in before.plan.origins if key.startswith("technique.")]
        keys |= {key: _value(stored, key) for key in named}
    return keys | {"technique.from": str(before.path.resolve())}


def _value(tables: Any, key: str) -> Any:
    for part in key.split("."):
        tables = tables[int(part) if isinstance(tables, list) else part]
    return tables


def predict_slope(chain: Sequence[Task], quiet: bool) -> float:
    """Fit the loss of score per nat of divergence to the runs of a chain.

    Raises:
        UsageError: no run of the chain measured its divergence and forgot something.
    """
    points = []
    for length in range(2, len(chain) + 1):
        measured = find_divergence(chain[length - 1])
        if measured is not None:
            matrix = read_matrix(chain[:length], quiet=quiet)
            score = matrix.score_after(length - 2)
            if matrix.last_loss is not None:
                points.append(Point(measured["kl"], matrix.last_loss, score))
    slope = fit_slope(points)
    if slope is None:
        raise UsageError(
            "retention.budget: no earlier run of this chain shows how forgetting grows with the "
            "divergence",
            hint="set retention.budget_slope, or train a run of the chain with retention.kl_every",
        )
    return slope


def write_findings(findings: ChainFindings) -> Path:
    """Write page, card and JSON into the last run's folder; return the folder."""
    from tunesmith_continual.page import render_card, render_page  # jinja2 is slow to import

    folder = findings.chain[-1].path / FOLDER
    folder.mkdir(exist_ok=True)
    write_atomic(folder / "page.html", render_page(findings))
    write_atomic(folder / "card.md", render_card(findings))
    write_atomic(folder / "chain.json", json.dumps(findings.to_json(), indent=2) + "\n")
    return folder
