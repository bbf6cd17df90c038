"""Build the first and the last event of a run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tunesmith.errors import PluginError, RunStopped, TunesmithError
from tunesmith.events import JSON, RunFinished, RunStarted
from tunesmith.execution.versions import collect_versions
from tunesmith.machine import explain_machine_error
from tunesmith.plan import Component, Plan
from tunesmith.storage import RunFolder
from tunesmith.text import redact_all


def to_reported_error(error: BaseException) -> BaseException:
    """Return the error to report at the end of a run; ``sys.exit`` counts as a plugin error."""
    if isinstance(error, SystemExit):
        return PluginError(f"code in the run called sys.exit({error.code!r})")
    return explain_machine_error(error) or error


def build_run_finished(error: BaseException | None, verdict: JSON, seconds: float) -> RunFinished:
    """Return the event for the end of a run, given the error that ended it."""
    event = RunFinished(status="ok", exit_code=0, finished=now(), seconds=seconds, verdict=verdict)
    if error is None:
        return event
    event = replace(event, status="stopped" if isinstance(error, RunStopped) else "failed")
    if isinstance(error, TunesmithError):
        return replace(
            event,
            exit_code=error.exit_code,
            error=error.message,
            hint=error.hint or "",
            will_repeat=error.will_repeat,
        )
    return replace(event, exit_code=1, error=repr(error))


def build_run_started(plan: Plan, folder: RunFolder, *, resumed: bool) -> RunStarted:
    """Return the event for the start of a run."""
    return RunStarted(
        run=folder.path.name,
        name=plan.name,
        started=now(),
        plan=redact_all(plan.to_json()),  # redacted as in the log, so a resumed run can compare
        versions=collect_versions(),
        plugins=list_used_plugins(plan),
        resumed=resumed,
        trains=plan.trains,
        additions=[addition.table for addition in plan.additions],
    )


def list_used_plugins(plan: Plan) -> list[JSON]:
    """List the plugins of all components of a plan; of its tables, only those with an addition."""
    components: list[Component[Any]] = [plan.data, plan.split, plan.technique]
    components += [*plan.evaluators, *plan.reporters, *plan.baselines]
    components += [plan.encoder] if plan.encoder else []
    added = {addition.table for addition in plan.additions}
    components += [table for table in plan.tables if table.use in added]
    plugins = {c.offered.plugin.full_name: c.offered.plugin for c in components}
    return [
        {"name": p.name, "distribution": p.distribution, "version": p.version}
        for p in plugins.values()
    ]


def now() -> str:
    """Return the current UTC time as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
