"""Find the failures of a run, which are weak slices and rows that are worth reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import UsageError
from tunesmith.events import JSON, TUNED, Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.execute import load_report
from tunesmith.execution.report import Report, build_report
from tunesmith.storage import RunFolder, read_known_events
from tunesmith_evidence.slices.discover import WeakSlice, find_weak_slices, split_in_halves
from tunesmith_evidence.slices.items import (
    find_near_misses,
    find_regressed_rows,
    find_wrong_rows,
    has_best_value,
)
from tunesmith_evidence.slices.rows import ScoredRow, find_row_metric, to_scored_rows

BASE_MODELS = ("zero-shot", "base")
"""Labels of the untuned base model, in runs and in evaluations."""


@dataclass(frozen=True, kw_only=True)
class Failures:
    """The failures of a run's tuned model, according to one metric."""

    measured: Measured
    rows: Sequence[ScoredRow]
    slices: Sequence[WeakSlice]
    """All tested slices, confirmed or not."""
    wrong: Sequence[ScoredRow]
    regressed: Sequence[tuple[ScoredRow, ScoredRow]]
    """Rows that the base model answered better, each with the base model's row."""
    near_misses: Sequence[tuple[ScoredRow, str]]
    base: str
    """Label of the base model, or "" if it was not measured with this metric."""
    replaced: str = ""
    """Metric without per-row scores that ``measured`` replaces; usually empty."""

    @property
    def confirmed(self) -> list[WeakSlice]:
        """The slices that the second half of the rows confirmed to be weak."""
        return [found for found in self.slices if found.is_confirmed]


def open_results(path: Path) -> tuple[Path, Report]:
    """Return the folder and the report of a run or an evaluation.

    Raises:
        UsageError: the folder is neither a run nor an evaluation.
    """
    if (path / "evaluation.json").is_file():
        return path, build_report(read_known_events(path / "events.jsonl"))
    folder = RunFolder.open(path)
    return folder.path, load_report(folder)


def find_failures(folder: Path, report: Report, metric: str | None) -> Failures:
    """Return the failures of the tuned model by a metric, which is the verdict's by default.

    For an evaluation, return the failures of its only model. If the metric has no per-row scores,
    use another metric of the same evaluator.

    Raises:
        UsageError: the tuned model was not measured by this metric, or no metric of its evaluator
            has per-row scores.
    """
    chosen = choose_metric(report, metric)
    measured = find_row_metric(folder, report, chosen)
    if measured is None:
        raise UsageError(
            f"{chosen.metric} has no per-row scores, so it cannot find failed rows",
            hint="choose another metric with --metric NAME",
        )
    rows = to_scored_rows(read_rows(folder / measured.records, measured.metric), measured.metric)
    higher = measured.higher_is_better
    wrong = find_wrong_rows(rows, higher, has_best=has_best_value(measured))
    base = next(
        (
            report.measured[label, measured.evaluator, measured.metric]
            for label in BASE_MODELS
            if (label, measured.evaluator, measured.metric) in report.measured
        ),
        None,
    )
    of_base = (
        to_scored_rows(read_rows(folder / base.records, base.metric), base.metric) if base else []
    )
    return Failures(
        measured=measured,
        rows=rows,
        slices=find_weak_slices(rows, higher),
        wrong=wrong,
        regressed=find_regressed_rows(rows, {row.number: row for row in of_base}, higher),
        near_misses=find_near_misses(wrong) if higher else [],
        base=base.model if base else "",
        replaced="" if measured == chosen else chosen.metric,
    )


def choose_metric(report: Report, metric: str | None) -> Measured:
    """Return the measurement of the tuned model with a metric.

    By default, return that of the verdict's metric or, without a verdict, the first metric.

    Raises:
        UsageError: the model was not evaluated, or not with this metric.
    """
    labels = {event.model for event in report.measured.values()}
    label = labels.pop() if len(labels) == 1 else TUNED
    events = [event for event in report.measured.values() if event.model == label]
    if not events:
        raise UsageError(
            "the tuned model has not been evaluated", hint="finish the run with `tunesmith resume`"
        )
    wanted = metric or report.verdict.get("metric")
    found = [event for event in events if event.metric == wanted]
    if not found and metric is not None:
        names = ", ".join(dict.fromkeys(event.metric for event in events))
        raise UsageError(
            f"--metric {metric}: this metric was not measured",
            hint=f"choose one of the measured metrics: {names}",
        )
    return (found or events)[0]


def export_rows(failures: Failures, for_next: bool = False) -> Iterator[JSON]:
    """Yield each failed row once, with its prompt, both answers and the reasons to review it.

    Args:
        for_next: yield only rows of the half where slices are discovered, so that the other half
            can show an improvement.
    """
    reasons: dict[int, list[str]] = {row.number: [] for row in failures.wrong}
    places = {row.number: place for place, row in enumerate(failures.rows)}
    for weak in failures.confirmed:
        for row in failures.wrong:
            if places[row.number] in weak.slice.members:
                reasons[row.number].append(f"weak slice: {weak.slice.name}")
    for row, _ in failures.regressed:
        reasons.setdefault(row.number, []).append("the base model was better")
    for row, what in failures.near_misses:
        reasons[row.number].append(f"near-miss: {what}")
    by_number = {row.number: row for row in failures.rows}
    first, _ = split_in_halves(failures.rows)
    usable = {failures.rows[place].number for place in first} if for_next else set(by_number)
    chosen = [(number, texts) for number, texts in reasons.items() if number in usable]
    for number, texts in sorted(chosen, key=lambda item: (-len(item[1]), item[0])):
        row = by_number[number]
        yield {
            "source": row.source,
            "messages": [{"role": role, "content": text} for role, text in row.prompt],
            "expected": row.expected,
            "output": row.output,
            "value": row.value,
            "reasons": texts or ["wrong"],
            **({"group": row.group} if row.group is not None else {}),
            **({"columns": dict(row.columns)} if row.columns else {}),
        }
