"""Retention periods: which runs and checkpoints are due for deletion, and their deletion."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tunesmith.errors import IntegrityError
from tunesmith.storage import lock
from tunesmith_regulated.audit_log import Entry, append
from tunesmith_regulated.options import Policy
from tunesmith_regulated.signing import sign_folder
from tunesmith_regulated.verify import check_run, replay


@dataclass(frozen=True)
class Due:
    """A ``run`` or its ``checkpoints``, days after its end; ``kept`` is why it is not deleted."""

    run: str
    what: str
    days: int
    kept: str


def find_due(policy: Policy, entries: Sequence[Entry], now: datetime) -> Iterator[Due]:
    """Yield what is due, by the time at which the run ended according to the log."""
    ends = {e.run: e.time for e in entries if e.action == "sign" and "status" in e.facts}
    promoted = {entry.run for entry in entries if entry.action == "promote"}
    keep_checkpoints = policy.options.keep_checkpoints or math.inf
    for run in sorted(replay(entries).signatures.keys() & ends.keys()):
        days = (now - datetime.fromisoformat(ends[run])).days
        kept = "on hold" if Path(run).name in policy.options.hold else ""
        if days >= (policy.options.keep_runs or math.inf):
            yield Due(run, "run", days, kept or ("promoted" if run in promoted else ""))
        elif days >= keep_checkpoints and _find_checkpoints(policy, run):
            yield Due(run, "checkpoints", days, kept)


def _find_checkpoints(policy: Policy, run: str) -> list[Path]:
    found = (policy.folder / run).rglob("checkpoints")
    return [path for path in found if path.is_dir() and any(path.iterdir())]


def delete_due(policy: Policy, entries: Sequence[Entry], due: Due) -> None:
    """Delete what is due from an intact run, and record it in the log."""
    folder = policy.folder / due.run
    require_intact(policy, entries, folder)
    with lock(folder):
        append(policy, "expire", folder, what=due.what, days=due.days)
        if due.what == "checkpoints":
            for path in _find_checkpoints(policy, due.run):
                shutil.rmtree(path)
            append(policy, "sign", folder, signature=sign_folder(folder, policy.key))
    if due.what == "run":
        shutil.rmtree(folder)


def require_intact(policy: Policy, entries: Sequence[Entry], folder: Path) -> None:
    """Raise an error if a run differs from the log, because a new signature would hide that."""
    if problems := check_run(policy, entries, folder):
        raise IntegrityError(problems[0], hint="find out who changed the run before you go on")
