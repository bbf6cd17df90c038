"""``tunesmith retrain``: decide if training again pays, do it, and promote or roll back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tunesmith import api
from tunesmith.errors import GateError, UsageError
from tunesmith.statistics import mean_interval
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option
from tunesmith_monitor.decision import Decision, Inputs, decide, list_sensitivities

if TYPE_CHECKING:
    from tunesmith_monitor.candidate import SplitRows

MIN_AUDITED = 10
ACT = 10
"""Exit code: there is something to do."""
F = TypeVar("F", bound=Callable[..., Any])


def assumption(
    name: str, default: float, text: str, *, is_positive: bool = False
) -> Callable[[F], F]:
    """Return the option of a number that the decision depends on."""
    numbers = click.FloatRange(0, min_open=is_positive)
    return click.option(name, type=numbers, default=default, show_default=True, help=text)


@click.command("retrain")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--rows", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="New labeled rows in JSON Lines. A third of them become test rows.",
)  # fmt: skip
@assumption("--volume", 10_000, "Requests per month.")
@assumption("--months", 6, "Months until the model is replaced anyway.")
@assumption("--value", 1, "Cost of a wrong answer, in any currency.")
@assumption("--training-cost", 20, "Cost of training and evaluating a model.")
@assumption("--label-cost", 0.5, "Cost of labeling a row.")
@assumption("--forgetting", 0.002, "Expected rise of the share of wrong answers to old requests.")
@assumption("--first-rows", 50, "Scale of the learning curve, in rows.", is_positive=True)
@assumption("--exponent", 0.5, "Exponent of the learning curve.")
@click.option(
    "--state", "folder", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Folder of the monitor. Default: the run folder's name with `.monitor`.",
)  # fmt: skip
@click.option("--go", is_flag=True, help="Train the next run, and promote it if it is better.")
@click.option(
    "--prepare", is_flag=True,
    help="Only write the next run file to --out, to run it elsewhere as OUT/run.",
)  # fmt: skip
@click.option("--rollback", is_flag=True, help="Put the run before the last promotion in service.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Folder of the next run. Default: the run folder's name with `-next`.",
)  # fmt: skip
@click.option(
    "--margin", type=click.FloatRange(0, 1), default=0.05, show_default=True,
    help="Acceptable rise of the share of wrong answers to old test rows.",
)  # fmt: skip
@trust_option
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run: Path,
    file: Path | None,
    folder: Path | None,
    go: bool,
    prepare: bool,
    rollback: bool,
    out: Path | None,
    margin: float,
    as_json: bool,
    **assumptions: float,
) -> int:
    """Decide if training RUN again pays: RETRAIN, WAIT or LABEL N MORE.

    The share of wrong answers now is that of the audited answers of `tunesmith monitor`, otherwise
    that of the new training rows, which must then be a random sample of the traffic. With --go, the
    next run is trained with the new rows and compared with RUN on old and new test rows. If it is
    better, the link RUN is changed to it; otherwise the exit code is 6.

    Exit code without --go: 0 for WAIT, 10 for RETRAIN and LABEL.
    """
    if go + prepare + rollback > 1:
        raise UsageError("--go, --prepare and --rollback cannot be combined: use only one of them")
    if rollback:
        from tunesmith_monitor.service_link import roll_back

        earlier = roll_back(run)
        show({"rolled_back_to": str(earlier)}, f"{run}: {earlier.name} is back in service", as_json)
        return 0
    out = (out or run.resolve().with_name(f"{run.resolve().name}-next")).absolute()
    rows = read_new_rows(run, file, state) if file else None
    if go or prepare:
        if rows is None:
            raise UsageError("--go and --prepare need --rows FILE with new labeled rows")
        return start_next(run, rows, out, margin, prepare=prepare, as_json=as_json, state=state)
    inputs = collect_inputs(run, rows, folder, out, assumptions, state)
    decision = decide(inputs)
    found = {"decision": decision.word, "labels": decision.labels}
    found |= {"net": [decision.low, decision.value, decision.high], "inputs": asdict(inputs)}
    changes = [*list_sensitivities(inputs)]
    found["sensitivity"] = [
        {"input": name, "value": value, "half": half, "double": double}
        for name, value, half, double in changes
    ]
    if as_json:
        render.print_json({"schema": "tunesmith.retrain/1", **found})
    else:
        show_decision(inputs, decision, changes)
    return 0 if decision.word == "WAIT" else ACT


def read_new_rows(run: Path, file: Path, state: CliState) -> SplitRows:
    """Return the new rows of a file, split into training and test rows."""
    from tunesmith_monitor.candidate import split_rows

    rows = split_rows(file, run, files=state.files)
    if rows.known:
        render.print_note(f"skipped {rows.known:,} rows whose prompts the run already has")
    return rows


def collect_inputs(
    run: Path,
    rows: SplitRows | None,
    folder: Path | None,
    out: Path,
    assumptions: Mapping[str, float],
    state: CliState,
) -> Inputs:
    """Collect what the decision depends on.

    Raises:
        UsageError: the share of wrong answers before or now is unknown.
    """
    from tunesmith_monitor.monitor import find_folder, read_outcomes
    from tunesmith_monitor.reference import find_score

    before = find_score(api.read_report(run))
    if before is None:
        raise UsageError(f"{run}: the run has no metric that is a share of right answers")
    values = read_outcomes(find_folder(run, folder))
    if len(values) < MIN_AUDITED:
        if rows is None:
            raise UsageError(
                f"{run}: fewer than {MIN_AUDITED} answers were audited, so nobody knows how many "
                "are wrong now",
                hint="label rows and give them with --rows, or let people check answers and run "
                "`tunesmith monitor`",
            )
        values = measure_new_rows(run, rows, out, (before.evaluator, before.metric), state)
    now = mean_interval(values)
    return Inputs(
        error_before=1 - before.value,
        error_now=1 - now.value,
        error_low=1 - now.high,
        error_high=1 - now.low,
        audited=len(values),
        rows=len(rows.train) if rows else 0,
        **assumptions,
    )


def measure_new_rows(
    run: Path, rows: SplitRows, out: Path, key: tuple[str, str], state: CliState
) -> list[float]:
    """Return the value of each new training row with the run in service, which was not trained on.

    The new test rows are left for the comparison with the next run.
    """
    from tunesmith_monitor.candidate import evaluate_new_rows, write_rows

    write_rows(rows, out)
    render.print_note(
        f"Fewer than {MIN_AUDITED} answers were audited, so wrong answers are counted on the new "
        "rows. They must be a random sample: rows of `tunesmith monitor --label` are harder."
    )
    return evaluate_new_rows(run, out, "added", key, plugin_options(state))


def plugin_options(state: CliState) -> list[str]:
    """Return the options that name the plugin files of this command."""
    return [part for file in state.files for part in ("--plugin", file)]


def show_decision(
    inputs: Inputs, decision: Decision, changes: list[tuple[str, float, str, str]]
) -> None:
    """Print the decision, and what it depends on."""
    render.print_text(decision.text, style="strong")
    render.print_paragraph(
        f"Net value of training now: {decision.value:,.0f} (between {decision.low:,.0f} and "
        f"{decision.high:,.0f}). Wrong answers: {inputs.error_now:.1%} now "
        f"({inputs.error_low:.1%} to {inputs.error_high:.1%}, {inputs.audited:,} answers), "
        f"{inputs.error_before:.1%} in the evaluation. A new model recovers about "
        f"{inputs.learned():.0%} of the difference."
    )
    render.print_text()
    table = [[name.replace("_", " "), f"{v:g}", a, b] for name, v, a, b in changes]
    render.print_table(["input", "value", "if half", "if twice"], table, right=(1,))


def start_next(  # noqa: PLR0913
    run: Path,
    rows: SplitRows,
    out: Path,
    margin: float,
    *,
    prepare: bool,
    as_json: bool,
    state: CliState,
) -> int:
    """Write the next run file; unless ``prepare``, train, compare and promote.

    Raises:
        GateError: the new run is not better.
    """
    from tunesmith_monitor import candidate, service_link

    service = run.resolve() if prepare else service_link.require_link(run)
    plugins = plugin_options(state)
    candidate.prepare(service, rows, out, plugins)
    here = render.shell_path(out)
    if prepare:
        text = f"{out}: run it as `tunesmith run {here}/run.toml --out {here}/run` or with a "
        show({"folder": str(out)}, f"{text}launcher, then repeat this command with --go", as_json)
        return 0
    new = candidate.train(out, plugins)
    found = candidate.judge(service, new, out, margin, plugins)
    verdict = api.read_report(new).verdict
    text = f"new rows: {found.new}\nold rows: {found.old}"
    if verdict.get("word"):
        # The next run measured the baselines again, with the new rows.
        text += f"\nverdict of the new run: {verdict['word']}"
    if found.reasons:
        render.print_text(text) if not as_json else None
        raise GateError(f"{new}: not promoted: {'; '.join(found.reasons)}")
    service_link.promote(run, new)
    text += f"\n{run}: {out.name}/{new.name} is in service. Restart the server to use it; undo "
    text += f"with: tunesmith retrain {render.shell_path(run)} --rollback"
    content = {"promoted": str(new), "old": found.old, "new": found.new, "verdict": verdict}
    show(content, text, as_json)
    return 0


def show(content: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print a result as JSON or as text."""
    if as_json:
        render.print_json({"schema": "tunesmith.retrain/1", **content})
    else:
        render.print_text(text)
