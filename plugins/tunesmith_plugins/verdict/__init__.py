"""Judge a run: compare the tuned model with the best that could be had without tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.events import JSON
    from tunesmith.plan import Evidence


@hookimpl
def tunesmith_verdict(evidence: Evidence) -> JSON | None:
    """Compute the verdict by the first metric that was measured on the tuned model."""
    from tunesmith_plugins.verdict.rule import judge

    return judge(evidence)
