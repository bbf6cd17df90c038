"""Reviews: of a run file before the run, and of a run whose model is exported or verified."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.contracts import Finding
from tunesmith.errors import DataError, TunesmithError, UsageError
from tunesmith.execution.run_events import list_used_plugins
from tunesmith.plan import Component, Plan
from tunesmith_evidence.side_effects.canaries import read_canaries
from tunesmith_regulated.audit_log import append, read_entries
from tunesmith_regulated.egress import find_egress
from tunesmith_regulated.options import Policy, RegulatedOptions, read_policy
from tunesmith_regulated.power import describe_power
from tunesmith_regulated.signing import SIGNATURE
from tunesmith_regulated.verify import check_run


def review_plan(plan: Plan) -> Iterator[Finding]:
    """Yield an error if the account may not start this run, or the run may send data away."""
    named = plan.table(RegulatedOptions).policy
    if named is None:
        return
    try:
        policy = read_policy(Path(named))
        policy.require_role("start")
    except TunesmithError as error:
        yield _refuse("regulated.policy", error)
        return
    found = find_egress(plan.to_json(), list_used_plugins(plan), policy.options.plugins)
    for where, message, hint in found:
        yield Finding(level="error", where=where, message=message, hint=hint)


def review_data(plan: Plan, evaluators: Sequence[Component[Any]]) -> Iterator[Finding]:
    """Yield the power of the canary test, before anything is trained."""
    if plan.table(RegulatedOptions).policy is None:
        return
    for evaluator in (e for e in evaluators if e.offer.name == "canaries"):
        with suppress(DataError):  # the evaluator's own review reports it
            given = read_canaries(Path(evaluator.config.model_dump()["file"]))
            power = describe_power(len(given.canaries), len(given.controls))
            yield Finding(level="info", where=f"evaluators.{evaluator.id}", message=power)


def review_use(folder: Path, use: str) -> Iterator[Finding]:
    """Yield an error if the run is not intact, or this account may not export its model."""
    try:
        policy = find_policy(folder)
        if policy is None:
            return
        entries, problems = read_entries(policy)
        problems = [f"{policy.log}: {problem}" for problem in problems]
        problems += check_run(policy, entries, folder)
        if use != "verify" and not problems:
            policy.require_role("export")
            own = [entry.action for entry in entries if entry.run == policy.relative(folder)]
            if [action for action in own if action in ("promote", "sign")][-1] != "promote":
                problems.append(f"{folder}: the run is not promoted, or was changed since then")
            else:
                append(policy, "export", folder, use=use)
    except TunesmithError as error:
        yield _refuse("policy", error)
        return
    for problem in problems:
        yield Finding(level="error", where="signature", message=problem)
    if not problems:
        yield Finding(level="info", where="signature", message="the run agrees with the audit log")


def find_policy(folder: Path) -> Policy | None:
    """Return the policy of a run, or None if the run has none; raise an error for a bad one.

    A signed run had a policy, so its run file was changed if it names none.
    """
    try:
        tables = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
        named = Path(tables["regulated"]["policy"])
    except (OSError, ValueError, LookupError, TypeError):
        if (folder / SIGNATURE).exists():
            what = f"{folder}: the run is signed, but its run file names no policy"
            raise UsageError(what, hint="restore the run folder from a backup") from None
        return None
    return read_policy(named)


def _refuse(where: str, error: TunesmithError) -> Finding:
    return Finding(level="error", where=where, message=error.message, hint=error.hint or "")
