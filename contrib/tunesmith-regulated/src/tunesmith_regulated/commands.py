"""The commands ``tunesmith audit``: verify, show, promote, trace and due."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import click

from tunesmith.errors import DataError, IntegrityError, UsageError
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, common_options, result_options
from tunesmith_regulated.audit_log import (
    append,
    check_head,
    digest,
    list_notes,
    read_entries,
    require_entries,
)
from tunesmith_regulated.options import Policy, current_account, read_policy
from tunesmith_regulated.retention import delete_due, find_due, require_intact
from tunesmith_regulated.review import find_policy
from tunesmith_regulated.rows import delete_row, trace_row
from tunesmith_regulated.verify import check_inputs, check_runs

policy_argument = click.argument(
    "policy",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=lambda *given: read_policy(given[-1]),
)


@click.command("verify")
@policy_argument
@click.option("--after", metavar="NUMBER:SHA256", help="An earlier head, as this command printed.")
@click.option(
    "--public-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your own copy of the public key. Default: the key that the policy names.",
)
@result_options
def verify(
    state: CliState, policy: Policy, after: str | None, public_key: Path | None, as_json: bool
) -> None:
    """Check the audit log of POLICY, and the runs, data files and models that it names.

    The exit code is 7 if anything differs from the log. Changes of the policy and of the clock are
    notes, which do not change the exit code. Keep the head that is printed at the end, and pass it
    with --after next time: it shows that no later entry was removed.
    """
    entries, problems = read_entries(policy, public_key)
    if not entries:
        problems.append("has no entries")
    if after is not None:
        match = re.fullmatch(r"([1-9]\d*):([0-9a-f]{64})", after)
        if match is None:
            raise UsageError(f"--after: expected NUMBER:SHA256, got {after!r:.80}")
        lines = [entry.encode() for entry in entries]
        problems += check_head(lines, int(match[1]), match[2], "--after")
    found = {policy.log.name: [f"{policy.log}: {problem}" for problem in problems]}
    found.update(check_inputs(policy, entries))
    found.update(check_runs(policy, entries, public_key))
    notes = [*list_notes(policy, entries)]
    head = f"{len(entries)}:{digest(entries[-1].encode())}" if entries else ""
    bad = [problem for listed in found.values() for problem in listed]
    if as_json:
        result = {"ok": not bad, "entries": len(entries), "head": head, "problems": bad}
        render.print_json({"schema": "tunesmith.audit-verify/1", **result, "notes": notes})
    else:
        for name, listed in found.items():
            mark, style = ("FAIL", "bad") if listed else ("ok  ", "good")
            render.print_text(f"{mark} {name}", style=style)
            for problem in listed:
                render.print_text(f"       {problem}")
        for note in notes:
            render.print_text(f"note {note}")
        render.print_text(f"\nhead: {head}")
    if bad:
        raise IntegrityError(bad[0], hint="restore changed files from a backup")


@click.command("show")
@policy_argument
@result_options
def show(state: CliState, policy: Policy, as_json: bool) -> None:
    """Print the entries of the audit log of POLICY, without checking them."""
    entries = read_entries(policy)[0]
    if as_json:
        listed = [vars(entry) for entry in entries]
        render.print_json({"schema": "tunesmith.audit-show/1", "entries": listed})
        return
    columns = ["number", "time", "account", "action", "run"]
    rows = [[one_line(str(vars(entry)[name]), 200) for name in columns] for entry in entries]
    render.print_table(columns, rows, right=(0,))


@click.command("promote")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--reason", required=True, help="Why the model may be used, for the audit log.")
@common_options
def promote(run: Path, reason: str) -> None:
    """Record in the audit log that the model of RUN may be exported."""
    policy = find_policy(run)
    if policy is None:
        raise UsageError(f"{run}: the run has no policy", hint="add [regulated] to its run file")
    policy.require_role("promote")
    entries = require_entries(policy)
    require_intact(policy, entries, run)
    own = [entry for entry in entries if entry.run == policy.relative(run)]
    if [e.facts["status"] for e in own if "status" in e.facts][-1:] != ["ok"]:
        raise UsageError(f"{run}: the run did not finish")
    me = current_account()
    if policy.options.four_eyes and any(e.account == me for e in own if e.action == "start"):
        raise UsageError(f"{run}: you started this run, so somebody else must promote it")
    entry = append(policy, "promote", run, reason=reason)
    render.print_text(f"promoted: entry {entry.number} of {policy.log}")


@click.command("trace")
@policy_argument
@click.argument("row", metavar="[FILE:LINE]", required=False)
@click.option("--text", "texts", multiple=True, help="Find all rows with this text. Repeatable.")
@click.option("--delete", is_flag=True, help="Delete the row where that is possible.")
@result_options
def trace(
    state: CliState, policy: Policy, row: str, texts: tuple[str, ...], delete: bool, as_json: bool
) -> None:
    """Find a row in the data files, runs and caches that POLICY covers, and delete it.

    The row is searched for by its texts that no other row contains. The runs whose weights may
    depend on it are listed: delete or retrain them. The exit code is 3 if --delete leaves a copy.
    """
    if delete:
        policy.require_role("delete")
    entries = require_entries(policy)
    found = trace_row(policy, entries, row, texts)
    left = delete_row(policy, entries, found) if delete else []
    listed = [
        *((p, f"line {', '.join(map(str, sorted(n)))}") for p, n in found.lines.items()),
        *((path, "") for path in found.files),
        *((path, "named by the row") for path in found.named),
        *((path, "cannot be searched") for path in found.unsearched),
    ]
    places = [(policy.relative(path), where) for path, where in listed]
    if as_json:
        result = {"places": places, "retrain": found.retrain, "left": [str(path) for path in left]}
        render.print_json({"schema": "tunesmith.audit-trace/1", **result})
    else:
        render.print_table(["place", "where"], [[one_line(p, 200), where] for p, where in places])
        for run, reason in found.retrain.items():
            render.print_text(f"retrain {one_line(run, 200)}: {one_line(reason, 200)}")
        if delete:
            render.print_text(f"deleted in {format_count(len(places) - len(left), 'place')}")
    if left:
        hint = "delete it there yourself; models must be trained again without it"
        raise DataError(policy.relative(left[0]), "may still contain the row", hint=hint)


@click.command("due")
@policy_argument
@click.option("--delete", is_flag=True, help="Delete what is due, except what is kept.")
@result_options
def due(state: CliState, policy: Policy, delete: bool, as_json: bool) -> None:
    """List the runs and checkpoints of POLICY whose retention period is over."""
    entries = require_entries(policy)
    listed = list(find_due(policy, entries, datetime.now(UTC)))
    if delete:
        policy.require_role("delete")
        for item in (item for item in listed if not item.kept):
            delete_due(policy, entries, item)
    if as_json:
        result = {"due": [vars(item) for item in listed], "deleted": delete}
        render.print_json({"schema": "tunesmith.audit-due/1", **result})
        return
    rows = [[i.run, i.what, str(i.days), i.kept or ("deleted" if delete else "")] for i in listed]
    render.print_table(["run", "due", "days", "kept"], rows, right=(2,))
