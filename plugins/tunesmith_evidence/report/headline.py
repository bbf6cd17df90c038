"""Summarize a run's verdict as a word, a figure and a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.events import JSON
from tunesmith.execution.report import Report
from tunesmith.text import one_line
from tunesmith_evidence.number_text import (
    format_confidence,
    format_difference,
    format_interval,
    format_number,
    format_p_value,
    format_rows,
)

__all__ = [
    "ComparisonRow",
    "Headline",
    "describe_not_measured",
    "find_headline",
    "list_comparisons",
]

Tone = Literal["good", "bad", "open"]
TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "failed": "bad"}
_DIFFERENCE = {"value", "tuned", "difference", "low", "high", "n"}
"""Keys that a comparison with a baseline needs for the headline's figure."""
_COMPARED = _DIFFERENCE | {"p_value_holm", "outcome"}
"""Keys that a comparison needs to be listed in tables."""


@dataclass(frozen=True)
class Headline:
    """The headline of a report: the verdict, a figure and a sentence."""

    word: str
    """The verdict in capitals, such as FINE-TUNE or, without a verdict, the run's status."""
    tone: Tone
    figure: str
    """The difference from the baseline; if there is no baseline, the tuned model's value or ""."""
    interval: str
    caption: str
    """A caption for the figure, with the metric, the models and the rows."""
    sentence: str
    would_change: str
    reason: str
    """The first clause of the sentence, without side effects and notes."""


@dataclass(frozen=True)
class ComparisonRow:
    """The tuned model and one baseline, on the rows that both answered, formatted as text."""

    baseline: str
    variant: str
    value: str
    tuned: str
    difference: str
    interval: str
    confidence: str
    """Confidence level of the interval, such as ``95 %``."""
    p_value: str
    rows: str
    """Number of rows that both answered, and of their groups."""
    outcome: str


def find_headline(report: Report, status: str = "") -> Headline:
    """Return the verdict's headline, or one about the run's status if there is no verdict.

    Args:
        report: the run's report.
        status: the run's status, if the caller has a newer one, for example from the run's lock.
            If it is empty, use the status in the report.
    """
    verdict, status = report.verdict, status or report.status
    if not verdict:
        figure, interval, caption = _describe_measured(report)
        word = status.upper() if status != "ok" else "FINISHED"
        tone = TONES.get(status, "open")
        return Headline(word, tone, figure, interval, caption, "", "", "")
    figure, interval, caption = _describe_difference(report, verdict)
    word = str(verdict.get("word") or verdict.get("outcome", "")).upper()
    tone = TONES.get(str(verdict.get("outcome")), "open")
    is_success = tone == "good" and verdict.get("worth_it") is not False
    return Headline(
        word=f"{word}, at a price" if is_success and verdict.get("price") else word,
        # A tuned model can be better and still not be worth it.
        tone="open" if tone == "good" and not is_success else tone,
        figure=figure,
        interval=interval,
        caption=caption,
        sentence=str(verdict.get("sentence", "")),
        would_change=str(verdict.get("would_change", "")),
        reason=str(verdict.get("reason", verdict.get("sentence", ""))),
    )


def list_comparisons(verdict: JSON) -> Iterator[ComparisonRow]:
    """Yield the comparisons in a verdict, skipping those by other plugins that lack keys."""
    comparisons = verdict.get("comparisons")
    for name, found in comparisons.items() if isinstance(comparisons, dict) else ():
        if isinstance(found, dict) and found.keys() >= _COMPARED:
            yield ComparisonRow(
                baseline=str(name),
                variant=str(found.get("variant", "")),
                value=format_number(found["value"]),
                tuned=format_number(found["tuned"]),
                difference=format_difference(found["difference"]),
                interval=format_interval(found["low"], found["high"], signed=True),
                confidence=format_confidence(float(found.get("confidence", 0.95))),
                p_value=format_number(found["p_value_holm"]),
                rows=format_rows(int(found["n"]), int(found.get("units", 0))),
                outcome=_describe_outcome(found),
            )


def describe_not_measured(found: Sequence[JSON]) -> str:
    """Return the baselines that were not measured as text, grouped by reason.

    Args:
        found: the entries of ``not_measured`` in a verdict.
    """
    by_reason: dict[str, list[str]] = {}
    for gap in found:
        by_reason.setdefault(str(gap["reason"]), []).append(str(gap["baseline"]))
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def _describe_outcome(found: JSON) -> str:
    """Return the outcome, with the p-value if only the p-value makes the outcome unclear."""
    outcome = str(found["outcome"])
    if outcome == "unclear" and found["low"] * found["high"] > 0 and "p_value" in found:
        return f"{outcome}, {format_p_value(found['p_value'])}"
    return outcome


def _describe_difference(report: Report, verdict: JSON) -> tuple[str, str, str]:
    """Return the difference from the baseline, its interval and a caption, as text."""
    metric = report.metric_label(str(verdict.get("evaluator", "")), str(verdict.get("metric", "")))
    baseline = str(verdict.get("baseline", ""))
    # The verdict's own interval can have a higher confidence level than those of the comparisons.
    candidates = (verdict, verdict.get("comparisons", {}).get(baseline, {}))
    found = next((found for found in candidates if found.keys() >= _DIFFERENCE), None)
    if found is None:
        return _describe_measured(report)
    before, after = format_number(found["value"]), format_number(found["tuned"])
    rows = format_rows(int(found["n"]), int(found.get("units", 0)), "test row")
    confidence = format_confidence(float(verdict.get("confidence", 0.95)))
    label = f"{confidence} interval"
    interval = format_interval(found["low"], found["high"], signed=True, label=label)
    return (
        format_difference(found["difference"]),
        f"difference, {interval}",
        f"{one_line(metric)}: {before} without fine-tuning ({one_line(baseline)}), "
        f"{after} with it, on {rows}",
    )


def _describe_measured(report: Report) -> tuple[str, str, str]:
    if not report.tuned:
        return "", "", ""
    tuned = report.tuned[0]
    label = report.metric_label(tuned.evaluator, tuned.metric)
    rows = format_rows(tuned.n, tuned.units, "test row")
    return (
        format_number(tuned.value),
        format_interval(tuned.low, tuned.high, label="95 % interval"),
        f"{one_line(label)} of the tuned model on {rows}",
    )
