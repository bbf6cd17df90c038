"""The reporter ``audit``: refuse runs that are not allowed, write the log, and sign the run."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.errors import TunesmithError, UsageError
from tunesmith.events import Event, Measured, RunFinished, RunStarted
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options
from tunesmith.storage import RunFolder
from tunesmith_regulated.audit_log import append
from tunesmith_regulated.egress import find_egress
from tunesmith_regulated.options import Policy, read_policy
from tunesmith_regulated.search import list_texts
from tunesmith_regulated.signing import digest_file, sign_folder

UNREAD_TABLES = ("model", "run", "plugins", "regulated", "reporters")
"""Tables of a run file whose paths are not data."""


class AuditOptions(Options):
    """No options: the table ``[regulated]`` names the policy."""


class Audit:
    """Writes a run to the audit log. Without ``[regulated] policy``, it does nothing."""

    def __init__(self, options: AuditOptions, folder: RunFolder) -> None:
        self._folder = folder.path
        self._policy: Policy | None = None
        self._end = {"status": "failed", "verdict": ""}

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *error: object) -> None:
        """Sign the run. All other reporters are closed by now, so its files are complete."""
        if self._policy is not None:
            signature = sign_folder(self._folder, self._policy.key)
            append(self._policy, "sign", self._folder, signature=signature, **self._end)

    def report(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start(event)
            case Measured(metric="memorized-canaries") if self._policy is not None:
                finding = str(event.details.get("finding", ""))
                append(self._policy, "canaries", self._folder, finding=finding)
            case RunFinished():
                self._end = {"status": event.status, "verdict": str(event.verdict.get("word", ""))}

    def _start(self, event: RunStarted) -> None:
        named = event.plan.get("regulated", {}).get("policy")
        if named is None:
            return
        policy = read_policy(Path(named))
        try:
            policy.require_role("start")
            allowed = policy.options.plugins
            for where, message, hint in find_egress(event.plan, event.plugins, allowed):
                raise UsageError(f"{where}: {message}", hint=hint)
        except UsageError as refusal:
            with suppress(TunesmithError):  # this account may not be able to write the log
                append(policy, "refuse", self._folder, reason=refusal.message)
                self._policy = policy
            raise
        inputs = {policy.relative(path): facts for path, facts in digest_inputs(event.plan)}
        facts = {"resumed": event.resumed, "inputs": inputs, "plugins": event.plugins}
        append(policy, "start", self._folder, **facts)
        self._policy = policy


def digest_inputs(plan: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield each file, also in folders, that a run file names as data, with its key and SHA-256."""
    tables = {name: table for name, table in plan.items() if name not in UNREAD_TABLES}
    for key, text in list_texts(tables):
        for path in map(Path, glob.glob(text)) if "/" in text else ():
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    yield file, {"key": key, "sha256": digest_file(file)}


AUDIT = ReporterOffer(
    name="audit",
    summary="audit log and signature of runs with [regulated]",
    config=AuditOptions,
    build=Audit,
    always=True,
    required=True,
)
