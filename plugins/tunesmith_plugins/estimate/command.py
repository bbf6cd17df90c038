"""``tunesmith plan``: estimate memory, time and cost of a run, and list the GPUs that fit it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from tunesmith import api
from tunesmith.errors import DataError, UsageError
from tunesmith.estimates import Assumptions
from tunesmith.execution.run_data import load_data
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith.text import suggest_name
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, set_option
from tunesmith_plugins.estimate import blocks, hardware, view
from tunesmith_plugins.estimate.compare_techniques import (
    PlannedLaunch,
    TechniqueComparison,
    compare_techniques,
)
from tunesmith_plugins.estimate.offer import EstimateOptions
from tunesmith_torch.runtime import machine

ASSUMABLE = ("sequence", "micro_batch", "rows")
EXAMPLE = "--assume sequence=1024,rows=10000"


@click.command("plan")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@set_option
@click.option(
    "--assume",
    "assumptions",
    multiple=True,
    metavar="KEY=N,...",
    help=(
        "Plan without a data file, with assumed values of sequence (tokens per row), micro_batch "
        "and rows."
    ),
)
@click.option(
    "--quick",
    "mode",
    flag_value="quick",
    help="Print only the analytic estimate, without tracing the training step.",
)
@click.option(
    "--resolved",
    "mode",
    flag_value="resolved",
    help="Print the run file with every option and its default, and exit.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 4096),
    default=1,
    show_default=True,
    help="Number of processes (torchrun --nproc-per-node). Memory is shown per process.",
)
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run_file: Path,
    sets: tuple[str, ...],
    assumptions: tuple[str, ...],
    mode: str | None,
    processes: int,
    as_json: bool,
) -> None:
    """Estimate memory, time and cost of a run before training, and list the GPUs it fits on.

    It reads the model's config.json and the data, but not the weights, and needs neither a GPU nor
    a network. It prints an analytic estimate at once, then a better one after tracing the training
    step (without computing it).
    """
    assumed = parse_assumptions(assumptions)
    plan, catalog = api.load_plan(run_file, sets=sets, files=state.files, disabled=state.disabled)
    if mode == "resolved":
        show_resolved(plan, as_json)
        return
    data = load_records(plan) if assumed is None else ((), ())
    table = hardware.load_hardware(plan.table(EstimateOptions).prices)
    launch = PlannedLaunch(machine.detect_machine(), processes)
    comparisons = compare_techniques(plan, catalog, data, assumed, launch, table)
    show(next(comparisons), comparisons, mode == "quick", as_json)


def show(
    first: TechniqueComparison, better: Iterator[TechniqueComparison], quick: bool, as_json: bool
) -> None:
    """Print the analytic estimate at once, then replace it with the traced one."""
    if as_json:
        *_, last = first, *(iter(()) if quick else better)
        render.print_json(view.to_json(last))
        return
    lines = view.build_blocks(first)
    if quick or not first.chosen.pending:
        blocks.print_blocks(lines)
        return
    with blocks.show_temporarily([*lines, blocks.TextLine(), view.TRACING]) as stays:
        traced = list(better)
    if traced or not stays:
        blocks.print_blocks(view.build_blocks(traced[-1] if traced else first))


def show_resolved(plan: Plan, as_json: bool) -> None:
    """Print the plan as a run file: `tunesmith plan run.toml --resolved > resolved.toml`."""
    if as_json:
        render.print_json({"schema": view.SCHEMA, "plan": plan.to_json()})
    else:
        render.print_text(plan.to_toml().rstrip("\n"))


def load_records(plan: Plan) -> tuple[Sequence[Record], Sequence[Record]]:
    """Load the training and test records, split as the run would split them."""
    try:
        _, parts = load_data(plan)
    except DataError as error:
        alternative = f"plan without a data file: tunesmith plan RUN.toml {EXAMPLE}"
        error.hint = f"{error.hint}; or {alternative}" if error.hint else alternative
        raise
    return parts.train, parts.test


def parse_assumptions(texts: Sequence[str]) -> Assumptions | None:
    """Parse the values of ``--assume``, or return None if the option was not given.

    Raises:
        UsageError: a key is unknown, or a value is not a positive integer.
    """
    given: dict[str, int] = {}
    for item in (part for text in texts for part in text.split(",") if part.strip()):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in ASSUMABLE:
            guess = suggest_name(key, ASSUMABLE)
            hint = f"did you mean {guess}?" if guess else f"known: {', '.join(ASSUMABLE)}"
            raise UsageError(f"--assume {item.strip()}: unknown key", hint=hint)
        number = value.replace("_", "")
        if not number.isascii() or not number.isdigit() or not int(number):
            raise UsageError(
                f"--assume {key}: must be a positive integer, got `{value}`",
                hint=f"use values such as {EXAMPLE}",
            )
        given[key] = int(number)
    return Assumptions(**given) if texts else None
