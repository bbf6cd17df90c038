"""``tunesmith evaluate``: evaluate a model on rows, without training."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.events import JSON, Measured
from tunesmith.execution.emitter import Emitter, Reporters
from tunesmith.execution.evaluate import evaluate_model
from tunesmith.execution.run_events import list_used_plugins, now
from tunesmith.execution.versions import collect_versions
from tunesmith.execution.wrapped_model import CachedModel
from tunesmith.records import Record
from tunesmith.signals import StopSignalHandler
from tunesmith.storage import EventLog, RunFolder, write_atomic
from tunesmith.storage.atomic import encode_json
from tunesmith.text import format_count, one_line, redact_all
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, set_option, trust_option
from tunesmith_evidence.report.view import ScoreRow, describe_unit
from tunesmith_plugins.commands.evaluate.target import (
    EvaluationTarget,
    TargetChoice,
    TargetModel,
    open_evaluation_target,
)

SCHEMA = "tunesmith.evaluation/1"


@click.command("evaluate")
@click.argument("target", metavar="MODEL")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of rows to evaluate on. Default: the run's test rows.",
)
@click.option(
    "--rows-of", metavar="RUN", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Evaluate an endpoint, adapter or model with the test rows, evaluators and system prompt "
         "of this run.",
)  # fmt: skip
@click.option("--base-only", is_flag=True, help="Evaluate the run's base model.")
@click.option(
    "--winner", is_flag=True, help="Evaluate the baseline that the run saved as its winner."
)
@click.option(
    "--base", metavar="MODEL", help="Base model for an adapter. Default: the one in its config."
)
@click.option(
    "--model", metavar="NAME", help="Model name at the endpoint. Default: the only model it lists."
)
@click.option(
    "--token-variable", metavar="NAME",
    help="Environment variable with the endpoint's API token.",
)  # fmt: skip
@click.option(
    "--evaluator", "evaluators", multiple=True, metavar="NAME",
    help="Evaluator to use. Default: those of the run, or those that fit the rows. Repeatable.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to create for the results. Default: "
    "a new folder in evaluations/.",
)  # fmt: skip
@set_option
@trust_option
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    target: str,
    data: Path | None,
    rows_of: Path | None,
    base_only: bool,
    winner: bool,
    base: str | None,
    model: str | None,
    token_variable: str | None,
    evaluators: tuple[str, ...],
    out: Path | None,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Evaluate any model on rows, without training.

    MODEL is one of:

    \b
    - a run folder
    - an adapter folder
    - a model: Hub id, folder or GGUF file
    - an OpenAI-compatible endpoint such as https://host/v1, which receives the prompts

    The results are written to a new folder, with the prompt, answer and score of each row.
    """
    if winner and base_only:
        raise UsageError("--winner and --base-only cannot be combined: use only one of them")
    which: TargetModel = "winner" if winner else "base" if base_only else "tuned"
    choice = TargetChoice(
        target, data, which, base, evaluators, sets, state.files, state.disabled, rows_of, model,
        token_variable,
    )  # fmt: skip
    opened = open_evaluation_target(choice)
    folder = create_folder(out, opened.label)
    if opened.endpoint is not None:
        rows = format_count(len(opened.records), "row")
        render.print_note(f"sending the prompts of {rows} to {opened.endpoint.url}")
    measured = measure(opened, folder, state.quiet)
    report = to_json(choice, opened, folder, measured)
    write_atomic(folder / "evaluation.json", encode_json(redact_all(report), indent=2) + "\n")
    if as_json:
        render.print_json(report)
        return
    show(measured)
    render.print_text(f"\nevaluation: {folder}")


def create_folder(out: Path | None, label: str) -> Path:
    """Create the folder for the results of the evaluation.

    Raises:
        UsageError: the folder is not empty, or cannot be created.
    """
    name = f"{datetime.now():%Y-%m-%d_%H%M}_{label}_{secrets.token_hex(2)}"
    folder = out or Path("evaluations", name)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"{folder}: the folder is not empty", hint="choose a new folder with --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot create the folder: {error.strerror}") from None
    return folder


def measure(target: EvaluationTarget, folder: Path, quiet: bool) -> list[Measured]:
    """Evaluate the target with each of its evaluators, and write per-row results to the folder."""
    shown = tuple(r for r in target.plan.reporters if r.offer.shows_progress and not quiet)
    plan = replace(target.plan, reporters=shown)
    measured: list[Measured] = []
    with (
        EventLog(folder / "events.jsonl") as log,
        StopSignalHandler() as interrupts,
        Reporters(plan, RunFolder(folder)) as reporters,
    ):
        emit = Emitter(log, reporters, (), interrupts)
        with emit.phase(f"{target.label} model"):
            loaded, run = target.open()
        model, plugin = CachedModel(loaded), plan.technique.offered.plugin
        for evaluator in target.evaluators:
            measured += evaluate_model(
                target.label, model, evaluator, target.records, emit, run, folder, plugin
            )
    return measured


def to_json(
    choice: TargetChoice, target: EvaluationTarget, folder: Path, measured: Sequence[Measured]
) -> JSON:
    """Return the evaluation as JSON (schema ``tunesmith.evaluation/1``)."""
    plan = replace(target.plan, evaluators=target.evaluators)
    return {
        "schema": SCHEMA,
        "finished": now(),
        "target": choice.target,
        "which": target.label,
        "model": target.endpoint.model if target.endpoint else plan.found_model.reference,
        **({"endpoint": target.endpoint.url} if target.endpoint else {}),
        "data": str(choice.data or f"the test rows of {choice.rows_of or 'the run'}"),
        "rows": len(target.records),
        "sources": _first_and_last(target.records),
        "evaluators": [
            {"id": e.id, "options": e.config.model_dump(mode="json")} for e in target.evaluators
        ],
        "measured": [asdict(event) for event in measured],
        "plugins": list_used_plugins(plan),
        "versions": collect_versions(),
        "folder": str(folder),
    }


def _first_and_last(records: Sequence[Record]) -> list[str]:
    return [records[0].source, records[-1].source]


def show(measured: Sequence[Measured]) -> None:
    """Print the results of an evaluation as a table."""
    rows = []
    for event in measured:
        metric, score = f"{one_line(event.metric)} ({describe_unit(event)})", ScoreRow.of(event)
        rows.append([one_line(event.evaluator), metric, score.value, score.interval, score.rows])
    headers = ["evaluator", "metric", "value", "95 % interval", "n"]
    render.print_table(headers, rows, right=(2, 3, 4))
