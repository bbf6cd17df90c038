"""The commands ``adapters list``, ``show``, ``export``, ``import``, ``add`` and ``forget``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunesmith import api
from tunesmith.errors import DataError, UsageError
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option
from tunesmith_evidence.number_text import (
    format_estimate,
    format_interval,
    format_number,
    format_share,
)

if TYPE_CHECKING:
    from tunesmith_personal.store import Entry

RUN = click.argument("run", metavar="RUN", type=click.Path(path_type=Path, file_okay=False))
USER = click.argument("user", metavar="USER")
EXAMPLES = 1000
"""Maximum number of users in a list without ``--json``."""


@click.command("list")
@RUN
@result_options
def list_command(state: CliState, run: Path, as_json: bool) -> None:
    """List the users of a run: their rows, and the best model for each of them."""
    from tunesmith_personal.store import Store

    entries = Store(run).entries()
    if as_json:
        render.print_json({"schema": "tunesmith.adapters/1", "users": [*map(asdict, entries)]})
        return
    rows = [
        [
            one_line(entry.user, 40),
            str(entry.rows),
            "own" if entry.has_adapter else "shared",
            "not judged" if entry.served is None else entry.served,
            _number(entry.probability),
            _interval(entry),
        ]
        for entry in entries[:EXAMPLES]
    ]
    header = ["user", "rows", "adapter", "best", "P(gain)", "gain (95 %)"]
    render.print_table(header, rows, right=(1, 4, 5))
    if len(entries) > EXAMPLES:
        render.print_note(f"the first {EXAMPLES:,} of {len(entries):,}; --json lists all")


@click.command("show")
@RUN
@USER
@result_options
def show_command(state: CliState, run: Path, user: str, as_json: bool) -> None:
    """Show what is stored about a user, and verify the user's adapter."""
    from tunesmith_personal.store import Store

    store = Store(run)
    entry = store.require(user)
    if entry.has_adapter:
        store.vector(entry)  # raises an error if it is damaged
    facts = asdict(entry)
    if as_json:
        render.print_json({"schema": "tunesmith.adapter/1", **facts})
        return
    steps = format_count(entry.steps, "step")
    shown = {
        "training rows": str(entry.rows),
        "adapter": f"own, after {steps}, verified"
        if entry.has_adapter
        else f"shared: {entry.note}",
        "loss with the shared adapter": _number(entry.first_loss),
        "loss with the own adapter": _number(entry.best_loss if entry.has_adapter else None),
        "best": entry.served or "not judged",
        "gain over the best baseline (95 %)": _interval(entry),
        "probability of a gain": _number(entry.probability),
    }
    render.print_text(one_line(user), style="strong")
    for name, value in shown.items():
        if value:
            render.print_text(f"{name}: {value}")


def _number(value: float | None) -> str:
    return "" if value is None else format_number(value)


def _interval(entry: Entry) -> str:
    if entry.low is None or entry.high is None:
        return ""
    return format_interval(entry.low, entry.high, signed=True)


@click.command("export")
@RUN
@USER
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to create.")
@result_options
def export_command(state: CliState, run: Path, user: str, out: Path, as_json: bool) -> None:
    """Write a user's adapter as a folder that PEFT and vLLM load."""
    from tunesmith_personal.exchange import export_adapter

    if out.exists():
        raise UsageError(f"--out {out}: already exists", hint="choose a new folder")
    export_adapter(run, user, out)
    _report(as_json, f"adapter: {render.shell_path(out)}", adapter=str(out))


@click.command("import")
@RUN
@USER
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--replace", is_flag=True, help="Replace the user's adapter, if there is one.")
@result_options
def import_command(
    state: CliState, run: Path, user: str, folder: Path, replace: bool, as_json: bool
) -> None:
    """Store an adapter that was trained elsewhere, in a PEFT folder, as a user's adapter.

    It must have the rank and the modules of the shared adapter.
    """
    from tunesmith.storage import lock
    from tunesmith_personal.exchange import import_adapter

    with lock(run):
        import_adapter(run, user, folder, replace=replace)
    _report(as_json, f"stored the adapter of {one_line(user)}", user=user)


@click.command("add")
@RUN
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@trust_option
@result_options
def add_command(state: CliState, run: Path, file: Path, as_json: bool) -> None:
    """Train adapters for the new users in a file with the columns of the run's data.

    Adapters of other users keep their bits. New adapters are not judged, because their rows are all
    used for training.
    """
    from tunesmith.events import FindingReported
    from tunesmith.storage import lock
    from tunesmith_personal.exchange import add_users

    opened, plan, _ = api.load_run(run, files=state.files, disabled=state.disabled)

    def emit(event: object) -> None:
        if isinstance(event, FindingReported):
            render.print_note(event.message)

    with lock(opened.path):
        added = add_users(opened.path, plan, file, emit)
    if not added:
        raise DataError(str(file), "has no rows of users that the run does not know yet")
    own = sum(entry.has_adapter for entry in added)
    text = f"{own} of {format_count(len(added), 'new user')} have an own adapter"
    _report(as_json, text, users=[asdict(entry) for entry in added])


@click.command("forget")
@RUN
@USER
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@trust_option
@result_options
def forget_command(state: CliState, run: Path, user: str, yes: bool, as_json: bool) -> None:
    """Delete a user's adapter and texts from a run folder, and search for what is left.

    The shared adapter has learned from the rows of all users. To remove what it has learned, delete
    the rows from your data and run again.
    """
    from tunesmith.storage import lock
    from tunesmith_personal.forget import forget_user
    from tunesmith_personal.store import Store

    opened, plan, _ = api.load_run(run, files=state.files, disabled=state.disabled)
    Store(opened.path).require(user)
    if not yes and not click.confirm(f"forget {one_line(user)}?", err=True):
        raise click.Abort
    with lock(opened.path):
        left = forget_user(opened.path, plan, user)
    if left:
        raise UsageError(
            f"{run}: texts of the user are left in {', '.join(map(one_line, left[:5]))}",
            hint="delete these files",
        )
    text = (
        f"forgot {one_line(user)}. The shared adapter has learned from the rows of all users: to "
        "remove that, delete the rows from your data and run again."
    )
    _report(as_json, text, user=user)


@click.command("membership")
@RUN
@click.option(
    "--users", type=click.IntRange(2), default=100, show_default=True,
    help="Maximum number of users to test, chosen at random.",
)  # fmt: skip
@trust_option
@result_options
def membership_command(state: CliState, run: Path, users: int, as_json: bool) -> None:
    """Test whether the adapters reveal which rows they were trained on.

    The test compares how much the loss of a user's training rows and test rows has fallen. The
    data of the run must still exist.
    """
    from tunesmith_personal.membership import measure_membership

    opened, plan, _ = api.load_run(run, files=state.files, disabled=state.disabled)
    found = measure_membership(opened.path, plan, users)
    if as_json:
        tables = {name: asdict(membership) for name, membership in found.items()}
        render.print_json({"schema": "tunesmith.membership/1", **tables})
        return
    rows = [
        [
            name,
            str(each.users),
            format_estimate(each.auc, each.low, each.high),
            format_number(each.detectable),
            format_share(each.recognized),
        ]
        for name, each in found.items()
    ]
    header = ["adapter", "users", "AUC (95 %)", "found from", "recognized"]
    render.print_table(header, rows, right=(1, 2, 3, 4))
    render.print_paragraph(
        "AUC: the probability that the loss of a training row has fallen more than that of a test "
        "row of the same user; 0.5 reveals nothing. The test finds values above the third number "
        "in 80 % of cases. Recognized: share of training rows that are recognized if 5 % of the "
        "test rows are mistaken for training rows."
    )


def _report(as_json: bool, text: str, **facts: Any) -> None:
    if as_json:
        render.print_json({"schema": "tunesmith.adapters/1", **facts})
    else:
        render.print_paragraph(text)
