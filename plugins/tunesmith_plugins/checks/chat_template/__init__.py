"""Check ``chat-template``: refuse conversations for a base model that has no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.plan import Plan
    from tunesmith.records import Record

NEEDS = ("torch>=2.11", "transformers>=5.17")


@hookimpl
def tunesmith_review_data(
    plan: Plan, train: Sequence[Record], test: Sequence[Record]
) -> Sequence[Finding]:
    """Look for a chat template if the rows, or the baselines, need one."""
    from tunesmith_plugins.checks.chat_template.review import review

    return review(plan, train, test)
