"""``tunesmith adapters merge``: merge the adapters of two runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option
from tunesmith_continual.chain import Task
from tunesmith_continual.merge import CANDIDATES, Judgment, Merge, Merger
from tunesmith_evidence.number_text import format_estimate, format_number

DENSITIES = {merge.method: merge.density for merge in CANDIDATES} | {
    f"{merge.method}_svd": merge.density for merge in CANDIDATES if merge.density
}
"""The methods, and the density of the sweep for those that need one."""


@click.command("merge")
@click.argument("first", metavar="RUN_A", type=click.Path(path_type=Path, file_okay=False))
@click.argument("second", metavar="RUN_B", type=click.Path(path_type=Path, file_okay=False))
@click.option("--judge", is_flag=True, help="Try several merges, and choose on validation rows.")
@click.option(
    "--method",
    type=click.Choice([*DENSITIES]),
    help="Write this merge without measuring it.",
)
@click.option("--weights", nargs=2, type=float, help="Weights of both adapters, with --method.")
@click.option(
    "--density",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of values that TIES and DARE keep, with --method.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to create.")
@trust_option
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    first: Path,
    second: Path,
    judge: bool,
    method: str | None,
    weights: tuple[float, float] | None,
    density: float | None,
    out: Path,
    as_json: bool,
) -> None:
    """Merge the adapters of two runs into one, with PEFT.

    With --judge, nine merges are measured on the validation rows of both runs, with each run's
    evaluators. The best one is written and measured once on the test rows. It is called good only
    if it is at least as good as the better of the two adapters on both tasks.
    """
    if judge == (method is not None):
        raise UsageError("adapters merge: needs either --judge or --method")
    if judge and (weights or density):
        raise UsageError(
            "adapters merge: --judge chooses weights and density itself",
            hint="remove --weights and --density, or name a merge with --method",
        )
    if method is not None and density and DENSITIES[method] is None:
        raise UsageError(f"--density: the method {method} has no density", hint="remove --density")
    if out.exists():
        raise UsageError(f"--out {out}: already exists", hint="choose a new folder")
    out = out.absolute()
    tasks = [Task.open(path, state.files, state.disabled) for path in (first, second)]
    merger = Merger(tasks)
    out.mkdir(parents=True)
    if method is not None:
        merge = Merge(method, weights or (0.5, 0.5), density or DENSITIES[method])
        merger.write(merge, out / "adapter")
        if as_json:
            render.print_json({"schema": "tunesmith.merge/1", "adapter": str(out / "adapter")})
        else:
            render.print_text(f"adapter: {out / 'adapter'} (not measured)")
        return
    judgment = merger.judge(out, quiet=state.quiet)
    report = {"schema": "tunesmith.merge/1", **judgment.to_json(), "adapter": str(out / "adapter")}
    write_atomic(out / "judgment.json", json.dumps(report, indent=2) + "\n")
    if as_json:
        render.print_json(report)
    else:
        show(judgment, tasks)
        render.print_note(f"\nadapter: {out / 'adapter'}")


def show(judgment: Judgment, tasks: list[Task]) -> None:
    """Print the scores on validation rows, and the decision on test rows."""
    columns = [f"{one_line(task.name, 24)} (validation)" for task in tasks]
    rows = [
        [one_line(name, 60), *map(format_number, values)]
        for name, values in judgment.validation.items()
    ]
    render.print_table(["adapter", *columns], rows, right=(1, 2))
    render.print_text()
    for task, change in zip(tasks, judgment.changes, strict=True):
        shown = format_estimate(change.value, change.low, change.high, signed=True)
        render.print_text(f"{task.name}: {shown} against the better single adapter, on test rows")
    if judgment.is_good:
        render.print_paragraph(
            f"GOOD: {judgment.chosen} is at least as good as the better adapter on both tasks",
            style="good",
        )
    else:
        render.print_paragraph(
            f"NOT GOOD: {judgment.chosen} is the best merge, but worse than a single adapter. "
            "Serve both adapters instead, or train one on the rows of both tasks.",
            style="warning",
        )
