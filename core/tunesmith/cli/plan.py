"""``tunesmith plan``: what a run would take, where it fits and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from tunesmith import api, machine
from tunesmith.cli import plan_view, render
from tunesmith.cli.common import State, common_options, json_option, pass_state, set_option
from tunesmith.contracts import Assumed
from tunesmith.errors import DataError, UsageError
from tunesmith.estimate import hardware
from tunesmith.estimate.compare_techniques import Study, study
from tunesmith.execution import execute
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith.text import did_you_mean

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
    help="Plan without a data file: sequence, micro_batch, rows. Repeatable.",
)
@click.option(
    "--quick", "how", flag_value="quick", help="The first estimate only: no step is traced."
)
@click.option(
    "--resolved",
    "how",
    flag_value="resolved",
    help="Print every option with its value, as a run file.",
)
@json_option
@common_options
@pass_state
def command(
    state: State,
    run_file: Path,
    sets: tuple[str, ...],
    assumptions: tuple[str, ...],
    how: str | None,
    as_json: bool,
) -> None:
    """Say what a run would take before it begins: memory, time, cost, and where it fits.

    Reads the model's config.json and the data; no weights, no GPU, no network. A first answer
    comes at once; then the training step is traced without computing it, for a better one.
    With --resolved: the run file in full, every option with its value; it runs again as is.
    """
    assumed = assumption(assumptions)
    plan, catalog = api.load(run_file, sets=sets, files=state.files, disabled=state.disabled)
    if how == "resolved":
        show_resolved(plan, as_json)
        return
    data = read(plan) if assumed is None else ((), ())
    table = hardware.load(plan.planning.prices)
    answers = study(plan, catalog, data, assumed, machine.this_machine(), table)
    show(next(answers), answers, how == "quick", as_json)


def show(first: Study, better: Iterator[Study], quick: bool, as_json: bool) -> None:
    """The first answer at once, and the last one in its place."""
    if as_json:
        *_, last = first, *(iter(()) if quick else better)
        render.data(plan_view.as_object(last))
        return
    answer = plan_view.blocks(first)
    if quick or not first.chosen.waiting:
        render.blocks(answer)
        return
    with render.provisional([*answer, render.Line(), plan_view.TRACING]) as stays:
        traced = list(better)
    if traced or not stays:
        render.blocks(plan_view.blocks(traced[-1] if traced else first))


def show_resolved(plan: Plan, as_json: bool) -> None:
    """The plan itself: `tunesmith plan run.toml --resolved > resolved.toml`."""
    if as_json:
        render.data({"schema": plan_view.SCHEMA, "plan": plan.to_json()})
    else:
        render.say(plan.to_toml().rstrip("\n"))


def read(plan: Plan) -> tuple[Sequence[Record], Sequence[Record]]:
    """The data, split as the run would split it."""
    try:
        _, parts = execute.read_parts(plan)
    except DataError as error:
        error.hint = f"{error.hint}; or, without data: {EXAMPLE}" if error.hint else EXAMPLE
        raise
    return parts.train, parts.heldout


def assumption(texts: Sequence[str]) -> Assumed | None:
    """What ``--assume`` says; None where it is not given.

    Raises:
        UsageError: a key that cannot be assumed, or no whole number from 1 up.
    """
    given: dict[str, int] = {}
    for item in (part for text in texts for part in text.split(",") if part.strip()):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in ASSUMABLE:
            guess = did_you_mean(key, ASSUMABLE)
            hint = f"did you mean {guess}?" if guess else f"known: {', '.join(ASSUMABLE)}"
            raise UsageError(f"--assume {item.strip()}: unknown key", hint=hint)
        number = value.replace("_", "")
        if not number.isascii() or not number.isdigit() or not int(number):
            raise UsageError(
                f"--assume {key}: must be a whole number from 1 up, got `{value}`", hint=EXAMPLE
            )
        given[key] = int(number)
    return Assumed(**given) if texts else None
