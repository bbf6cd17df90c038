"""Detect underfitting, because the score of an underfitted model is not evidence against tuning.

If more training should help, the rule withholds verdicts that advise against tuning, unless even a
perfect model would not change them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from tunesmith.execution.report import build_report
from tunesmith.storage import RunFolder, read_known_events
from tunesmith_evidence.fit import diagnose_fit
from tunesmith_plugins.verdict.paired_comparisons import PairedComparison


def describe_undertraining(folder: Path) -> str | None:
    """Return why more training should help and what to change, or None if it would not help.

    Args:
        folder: the run folder, with the events up to the evaluation.

    Raises:
        IntegrityError: the log or an evaluation file is damaged.
    """
    log = RunFolder(folder).events
    if not log.is_file():
        return None
    fit = diagnose_fit(folder, build_report(read_known_events(log)))
    return fit.sentence if fit is not None and fit.state == "underfitted" else None


def imagine_perfect_model(comparison: PairedComparison) -> PairedComparison | None:
    """Return the comparison with a perfect tuned model, or None if the metric has no best value."""
    low, high = comparison.bounds or (-math.inf, math.inf)
    best = high if comparison.measured.higher_is_better else low
    if not math.isfinite(best):
        return None
    metric = comparison.pairs.metric
    ideal = [row | {metric: row[metric] | {"value": best}} for row in comparison.pairs.tuned]
    return replace(comparison, pairs=replace(comparison.pairs, tuned=ideal))


def is_always_enough(comparison: PairedComparison, margin: float) -> bool:
    """Return True if even a perfect model could not beat the baseline by the margin."""
    perfect = imagine_perfect_model(comparison)
    return perfect is not None and perfect.is_below(margin)
