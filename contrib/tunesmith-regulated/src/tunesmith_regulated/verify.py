"""Compare the audit log with the runs, data files and models that it names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.storage import find_runs
from tunesmith_regulated.audit_log import Entry
from tunesmith_regulated.options import Policy
from tunesmith_regulated.signing import SIGNATURE, digest_file, find_change

DEPTH = 100
"""Levels of folders to search for runs: more than a project has."""


@dataclass
class State:
    """The SHA-256 of each data file and of each run's signature after the log; deleted runs.

    The signature of a run that has not ended is empty.
    """

    inputs: dict[str, str] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    expired: set[str] = field(default_factory=set)


def replay(entries: Sequence[Entry]) -> State:
    """Return the state after all entries."""
    state = State()
    for entry in entries:
        if entry.action in ("start", "sign"):
            state.signatures[entry.run] = str(entry.facts.get("signature", ""))
        elif entry.action == "expire" and entry.facts["what"] == "run":
            state.expired.add(entry.run)
            state.signatures.pop(entry.run, None)
        for path, facts in entry.facts.get("inputs", {}).items():
            state.inputs[path] = facts["sha256"]
    return state


def check_runs(
    policy: Policy, entries: Sequence[Entry], key: Path | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield each run of the log with its problems, then run folders that the log lacks."""
    state = replay(entries)
    for run in state.signatures:
        yield run, check_run(policy, entries, policy.folder / run, key)
    roots = {policy.folder, *((policy.folder / run).parent for run in state.signatures)}
    found = {policy.relative(path) for root in roots for path in find_runs(root, DEPTH)}
    for run in sorted(found - state.signatures.keys()):
        was = "was deleted according to the log" if run in state.expired else "is not in the log"
        yield run, [f"{policy.folder / run}: the run {was}"]


def check_run(
    policy: Policy, entries: Sequence[Entry], folder: Path, key: Path | None = None
) -> list[str]:
    """Return the problems of one run, whose last signature is in the log."""
    signature = replay(entries).signatures.get(policy.relative(folder))
    if signature is None:
        return [f"{folder}: the run is not in the log"]
    if not signature:
        return [f"{folder}: the run has not ended, so it is not signed: wait for it, or resume it"]
    if not folder.is_dir():
        return [f"{folder}: the run is missing"]
    path = folder / SIGNATURE
    if path.is_symlink() or not path.is_file():
        return [f"{path}: is missing"]
    if digest_file(path) != signature:
        return [f"{path}: differs from the log"]
    change = find_change(folder, key or policy.public_key)
    return [f"{folder}: {change}"] if change else []


def check_inputs(policy: Policy, entries: Sequence[Entry]) -> Iterator[tuple[str, list[str]]]:
    """Yield each data file of the log with its problems."""
    for name, sha256 in replay(entries).inputs.items():
        path = policy.folder / name
        if not path.is_file():
            yield name, [f"{path}: is missing"]
        elif digest_file(path) != sha256:
            yield name, [f"{path}: was changed after its last use in a run"]
        else:
            yield name, []
