"""Compare the tuned model with the baselines on the same held-out records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tunesmith.events import JSON, TUNED, Measured
from tunesmith.execution.evaluate import read_metric_values
from tunesmith.execution.report import metric_label
from tunesmith.plan import Evidence
from tunesmith_evidence.statistics import compare

BASELINE_NAMES = {"zero-shot": "the untouched model", "random-shots": "few-shot prompting"}


def judge(evidence: Evidence) -> JSON:
    """Compute the verdict by the first metric that was measured on the tuned model.

    Returns:
        The verdict as JSON; empty if the tuned model was not measured.
    """
    first = next((event for event in evidence.measured if event.model == TUNED), None)
    if first is None:
        return {}
    return compute_verdict(
        evidence.measured, first.metric, evidence.folder, evaluator=first.evaluator
    )


def compute_verdict(
    measured: Iterable[Measured], metric: str, folder: Path, *, evaluator: str | None = None
) -> JSON:
    """Compare the tuned model with every baseline on one metric, record by record.

    ``evaluator`` is the id of the evaluator that measured the metric; None: the first that did.

    The verdict is about the best baseline, ``baseline_model``. Its ``outcome`` is better, worse or
    unclear, and is decided by the 95 % interval of the paired difference: the intervals of the two
    models may overlap although the difference is clear.

    Returns:
        The verdict as JSON; empty if the tuned model was not measured.
    """
    measured = list(measured)
    chosen = [event for event in measured if event.metric == metric]
    if evaluator is None:
        evaluator = chosen[0].evaluator if chosen else ""
    events = {event.model: event for event in chosen if event.evaluator == evaluator}
    tuned = events.pop(TUNED, None)
    if tuned is None:
        return {}
    label = metric_label(measured, evaluator, metric)
    result = {"metric": metric, "evaluator": evaluator, "tuned": tuned.value}
    if not events:
        text = f"tuned model: {_interval_text(tuned, label)}; no baseline to compare with"
        return {**result, "outcome": "unclear", "sentence": text}
    tuned_values = read_metric_values(folder / tuned.records, metric)
    comparisons = {}
    for name, event in events.items():
        baseline_values = read_metric_values(folder / event.records, metric)
        # The weights are token counts of the expected answers, which all models share.
        # A rival may have been measured on some of the rows.
        both = [tuned_values.rows.index(row) for row in baseline_values.rows]
        weights, groups = tuned_values.weights, tuned_values.groups
        comparison = compare(
            baseline_values.values,
            [tuned_values.values[i] for i in both],
            tuned.higher_is_better,
            weights=weights and [weights[i] for i in both],
            groups=groups and [groups[i] for i in both],
        )
        comparisons[name] = {
            "baseline": event.value,
            "difference": comparison.difference.value,
            "low": comparison.difference.low,
            "high": comparison.difference.high,
            "p_value": comparison.p_value,
            "outcome": comparison.outcome,
            "detectable": comparison.detectable,
        }
    sign = 1 if tuned.higher_is_better else -1
    # The stages of a technique are compared too, but decide only if there is no prompt baseline.
    # Of equal baselines the last one, few-shot, is chosen.
    baselines = [name for name in events if name in BASELINE_NAMES] or list(events)
    best = max(reversed(baselines), key=lambda name: sign * events[name].value)
    return {
        **result,
        "baseline_model": best,
        **comparisons[best],
        "comparisons": comparisons,
        "sentence": _sentence(tuned, label, best, comparisons[best]),
    }


def _sentence(tuned: Measured, label: str, baseline: str, comparison: JSON) -> str:
    numbers = (
        f"{label} {comparison['baseline']:.3f} -> {tuned.value:.3f} on {tuned.n} held-out "
        f"rows, difference {comparison['difference']:+.3f} "
        f"[{comparison['low']:+.3f}, {comparison['high']:+.3f}]"
    )
    match comparison["outcome"]:
        case "better":
            return f"fine-tuning was worth it: better than {_baseline_name(baseline)}, {numbers}"
        case "worse":
            return f"fine-tuning was not worth it: worse than {_baseline_name(baseline)}, {numbers}"
        case _:
            return (
                f"no clear difference from {_baseline_name(baseline)}: {numbers}; with {tuned.n} "
                f"rows only a difference of {comparison['detectable']:.3f} or more can be shown: "
                "hold out more rows"
            )


def _baseline_name(baseline: str) -> str:
    return BASELINE_NAMES.get(baseline, f"the {baseline} stage")


def _interval_text(event: Measured, label: str) -> str:
    return f"{label} {event.value:.3f} [{event.low:.3f}, {event.high:.3f}]"
