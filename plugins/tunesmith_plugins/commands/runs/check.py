"""``tunesmith check``: validate a run file and its data without loading a model."""

from __future__ import annotations

import shlex
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import click

from tunesmith import api
from tunesmith.catalog import Catalog
from tunesmith.config.evaluators import choose_evaluators
from tunesmith.config.read_plan import list_requirements
from tunesmith.config.run_file import dotted_items
from tunesmith.contracts import Dataset
from tunesmith.errors import ConfigError, Problem
from tunesmith.events import DataLoaded, FindingReported
from tunesmith.execution.run_data import DataParts, build_data_event
from tunesmith.plan import Plan
from tunesmith.plugins import missing_requirements
from tunesmith.terminal import supports_unicode
from tunesmith.text import one_line, safe_text
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, set_option
from tunesmith_plugins.commands.runs import show_report
from tunesmith_plugins.commands.runs.check_data import check_data
from tunesmith_plugins.commands.runs.record_view import choose_rows, split_by_training, summarize

EXCERPT = 600
"""Maximum number of characters to print of a turn."""


@click.command("check")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@set_option
@click.option(
    "--origin", is_flag=True, help="Also print each value and its origin: file, default or --set."
)
@result_options
def command(
    state: CliState, run_file: Path, sets: tuple[str, ...], origin: bool, as_json: bool
) -> None:
    """Validate a run file and its data without training.

    The output lists all errors in the run file, skipped rows, findings of the data checks, a
    summary of the rows, and a few sample rows that mark the text to train on. No model is loaded.
    """
    plan, catalog = api.load_plan(
        run_file, sets=sets, files=state.files, disabled=state.disabled, runnable=False
    )
    if origin and not as_json:
        show_origins(plan)
    dataset, parts, found = check_data(plan, catalog)
    event = build_data_event(dataset, parts)
    if as_json:
        render.print_json(to_json(plan, catalog, event, found, parts))
    else:
        show(plan, catalog, event, found, dataset, parts)
    errors = [
        Problem(finding.source, finding.text) for finding in found if finding.level == "error"
    ]
    if errors:  # printed on stderr
        raise ConfigError(errors)
    next_line = f"tunesmith run {render.shell_path(run_file.resolve())}"
    needs = dict.fromkeys(chain(*list_requirements(plan, catalog).values()))
    if missing := [text for text in needs if missing_requirements([text])]:
        next_line = f"pip install {shlex.join(missing)}"
    todo = "install the libraries that the run needs" if missing else "start the run"
    render.print_note(f"\nno errors; {todo} with:\n  {next_line}")


def show(
    plan: Plan,
    catalog: Catalog,
    event: DataLoaded,
    found: list[FindingReported],
    dataset: Dataset,
    parts: DataParts,
) -> None:
    """Print plan, data, notes and warnings as text, then a few sample rows."""
    technique = plan.technique.offer
    render.print_paragraph(f"model: {one_line(plan.found_model.description, 200)}")
    render.print_paragraph(f"technique: {technique.name}, {technique.summary}")
    show_report.show_data(event)
    evaluators = ", ".join(
        component.id for component in choose_evaluators(plan, catalog, parts.measured)
    )
    by_data = "" if plan.evaluators or not evaluators else " (default for this data)"
    render.print_paragraph(f"evaluators: {evaluators or 'none'}{by_data}")
    for finding in found:
        if finding.level == "info":
            text = f"info: {one_line(finding.source)}: {one_line(finding.text, 600)}"
            render.print_paragraph(text)
    show_report.show_findings(finding for finding in found if finding.level != "error")
    trains_on = technique.trains_on
    for line in summarize(parts.train, trains_on):
        render.print_paragraph(f"train: {line}")
    mark = "▌" if supports_unicode(sys.stdout) else "|"
    for reason, record in choose_rows(parts.train, plan.run.seed).items():
        render.print_text()
        render.print_text(
            f"{reason} row, {one_line(record.source)} ({mark} marks text that is trained on):"
        )
        for part in split_by_training(record, trains_on):
            show_turn(part.label, part.text, mark if part.is_trained else " ")


def show_turn(label: str, text: str, mark: str) -> None:
    """Print a turn with ``mark`` in front of each line."""
    for number, line in enumerate(safe_text(text, limit=EXCERPT).split("\n")):
        shown = f"{mark} {label if number == 0 else '':<10}{line}".rstrip()
        render.print_text(f"  {shown}", style="good" if mark.strip() else "dim")


def to_json(
    plan: Plan, catalog: Catalog, event: DataLoaded, found: list[FindingReported], parts: DataParts
) -> dict[str, Any]:
    """Return the plan, data, findings and sample rows as JSON (schema ``tunesmith.check/2``)."""
    trains_on = plan.technique.offer.trains_on
    return {
        "schema": "tunesmith.check/2",
        "plan": plan.to_json(),
        "origins": list_origins(plan),
        "model": plan.found_model.description,
        "data": event.to_json(),
        "evaluators": [e.id for e in choose_evaluators(plan, catalog, parts.measured)],
        "contents": summarize(parts.train, trains_on),
        "findings": [finding.to_json() for finding in found],
        "examples": [
            {
                "reason": reason,
                "source": record.source,
                "turns": [
                    {"role": part.label, "text": part.text, "trained": part.is_trained}
                    for part in split_by_training(record, trains_on)
                ],
            }
            for reason, record in choose_rows(parts.train, plan.run.seed).items()
        ],
    }


def show_origins(plan: Plan) -> None:
    """Print every value of the plan with its origin."""
    rows = [
        [key, one_line(entry["value"], 60), entry["origin"]]
        for key, entry in list_origins(plan).items()
    ]
    render.print_table(["key", "value", "origin"], rows)
    render.print_text()


def list_origins(plan: Plan) -> dict[str, dict[str, str]]:
    """Return the value and the origin of each dotted key.

    A value without an origin inherits that of the table or list that contains it.
    """
    found = {}
    for key, value in dotted_items(plan.to_json()):
        parts = key.split(".")
        prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        origin = next((plan.origins[p] for p in prefixes if p in plan.origins), "default")
        found[key] = {"value": repr(value), "origin": origin}
    return found
