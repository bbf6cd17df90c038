"""Count the prompt tokens of a request, with the strongest baseline and with the tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tunesmith import api
from tunesmith.data.subset import Subset
from tunesmith.plan import Plan
from tunesmith.records import Record, last_exchange
from tunesmith.storage import RunFolder
from tunesmith_evidence.baselines import MeasuredBaseline
from tunesmith_evidence.prompting.prompted_model import count_prompt_tokens
from tunesmith_evidence.winner import rebuild_baseline

ROWS = 100
"""Maximum number of test rows whose prompt tokens are counted; the rows are evenly spaced."""


@dataclass(frozen=True)
class RequestTokens:
    """The mean number of prompt tokens per request, for the baseline and the tuned model."""

    baseline: float
    """Prompt tokens of the baseline; 0 for a classifier, which sends nothing to a model."""
    tuned: float


def count_request_tokens(
    baselines: RunFolder,
    plan: Plan,
    train: Sequence[Record],
    test: Sequence[Record],
    strongest: MeasuredBaseline,
) -> RequestTokens | None:
    """Count the prompt tokens of the strongest baseline and of the tuned model.

    The tuned model gets only the prompts of the rows, in the base model's chat template. Return
    None if a model cannot count tokens.
    """
    sample = Subset(test, range(0, len(test), -(-len(test) // ROWS)))
    prompts = [last_exchange(record)[0] for record in sample]
    base = api.open_models(baselines, plan, tuned=False, base=True)["base"]
    tuned = count_prompt_tokens(base, prompts)
    if not tuned:
        return None
    if strongest.chosen.solution in ("constant", "classifier"):
        return RequestTokens(0.0, fmean(tuned))
    baseline = rebuild_baseline(plan, train, strongest.chosen, base)
    asked = baseline and count_prompt_tokens(baseline, prompts)
    return RequestTokens(fmean(asked), fmean(tuned)) if asked else None
