"""Judge a run: compare the tuned model with the best that could be had without tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.events import JSON
    from tunesmith.offers import TableOffer
    from tunesmith.plan import Evidence, Plan
    from tunesmith.records import Record

NEEDS = ("numpy>=1.26",)


@hookimpl
def tunesmith_tables() -> Sequence[TableOffer[Any]]:
    """Offer the table ``[verdict]``."""
    from tunesmith_plugins.verdict.offer import VERDICT

    return [VERDICT]


@hookimpl
def tunesmith_review_data(plan: Plan, train: Sequence[Record]) -> Sequence[Finding]:
    """Estimate the label noise, which the verdict will ask for."""
    from tunesmith_plugins.verdict.label_noise import estimate_label_noise
    from tunesmith_plugins.verdict.offer import VerdictOptions

    limit = plan.table(VerdictOptions).max_label_noise
    return estimate_label_noise(train, limit, plan.run.seed)


@hookimpl
def tunesmith_verdict(evidence: Evidence) -> JSON:
    """Judge if tuning was worth it; a baseline that is enough is saved as the winner of the run."""
    from tunesmith_evidence.winner import discard_winner, save_winner
    from tunesmith_plugins.verdict.case import CLASSIFIER, PROMPT
    from tunesmith_plugins.verdict.rule import judge

    verdict = judge(evidence)
    if verdict.get("word") not in (PROMPT, CLASSIFIER):
        discard_winner(evidence.folder)
        return verdict
    return {**verdict, "winner": save_winner(evidence, verdict["baseline"])}
