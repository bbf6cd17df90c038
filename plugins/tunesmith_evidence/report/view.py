"""A report as documents show it: each value and each phrase is found once, here.

The terminal, Markdown, the HTML page, the card and notebooks lay the view out; none reads events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from tunesmith.errors import IntegrityError
from tunesmith.events import FindingReported, Measured
from tunesmith.execution.report import Report
from tunesmith_evidence.answers.cut_answers import list_cut
from tunesmith_evidence.fit import Fit, diagnose_fit, rate_fit
from tunesmith_evidence.number_text import format_interval, format_number, format_rows
from tunesmith_evidence.report.answers import Answers, read_answers
from tunesmith_evidence.report.ending import Ending, describe_ending, find_status
from tunesmith_evidence.report.facts import Prediction, list_predictions
from tunesmith_evidence.report.headline import (
    ComparisonRow,
    Headline,
    find_headline,
    list_comparisons,
)

__all__ = ["MetricView", "ReportView", "ScoreRow", "describe_unit"]


@dataclass(frozen=True)
class ScoreRow:
    """The score of a model, as text."""

    model: str
    value: str
    interval: str
    rows: str
    """Number of rows, and of the groups that dependent ones are in."""
    leakage_free: ScoreRow | None = None
    """The score without the test rows that have a near-duplicate in training, if it differs."""

    @classmethod
    def of(cls, event: Measured) -> ScoreRow:
        """Return the score of a measurement."""
        leakage_free = event.leakage_free and cls._format(
            f"{event.model}, leakage-free", event.leakage_free
        )
        return replace(cls._format(event.model, vars(event)), leakage_free=leakage_free or None)

    @classmethod
    def _format(cls, model: str, values: Mapping[str, float]) -> ScoreRow:
        return cls(
            model,
            format_number(values["value"]),
            format_interval(values["low"], values["high"]),
            format_rows(int(values["n"]), int(values.get("units", 0))),
        )


def describe_unit(event: Measured) -> str:
    """Return the unit of a metric, and which values are better."""
    better = "higher" if event.higher_is_better else "lower"
    return f"{event.unit + ', ' if event.unit else ''}{better} is better"


@dataclass(frozen=True)
class MetricView:
    """One metric, with the scores of all models that it was measured for."""

    label: str
    events: Sequence[Measured]

    @property
    def unit(self) -> str:
        """The unit, and which values are better."""
        return describe_unit(self.events[0])

    @property
    def description(self) -> str:
        """The unit, and that the rows are those for choices, if they are."""
        return f"{'validation rows, ' if self.events[0].part == 'validation' else ''}{self.unit}"

    @property
    def rows(self) -> str:
        """The part of the data that was measured."""
        return (
            "validation rows"
            if all(event.part == "validation" for event in self.events)
            else "test rows"
        )

    @property
    def scores(self) -> list[ScoreRow]:
        """The scores in the order of the measurements."""
        return [ScoreRow.of(event) for event in self.events]

    @property
    def cut(self) -> str:
        """The answers that were cut at the limit of tokens; empty if none were."""
        return list_cut(self.events)


@dataclass(frozen=True)
class ReportView:
    """The view of a run's report; a part is found when it is read first."""

    report: Report
    folder: Path
    """The folder of the run, which holds the values of the rows."""

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.report.name

    @cached_property
    def status(self) -> str:
        """The status of the run, also while it is running."""
        return find_status(self.folder, self.report)

    @cached_property
    def headline(self) -> Headline:
        """The verdict in a word, a figure and a sentence."""
        return find_headline(self.report, self.status)

    @cached_property
    def ending(self) -> Ending | None:
        """The end of a run without a result; None if it has one, or is running."""
        return describe_ending(self.folder, self.report)

    @property
    def error(self) -> str:
        """The error of a run that has a verdict nevertheless; mostly empty."""
        finished = self.report.finished
        return finished.error if finished and finished.verdict else ""

    @property
    def comparisons(self) -> list[ComparisonRow]:
        """The comparisons of the tuned model with its baselines."""
        return [*list_comparisons(self.report.verdict)]

    @cached_property
    def metrics(self) -> list[MetricView]:
        """The metrics, that of the verdict first."""
        groups: dict[tuple[str, str], list[Measured]] = {}
        for event in self.report.measured.values():
            groups.setdefault((event.evaluator, event.metric), []).append(event)
        verdict = self.report.verdict
        decisive = (verdict.get("evaluator"), verdict.get("metric"))
        return [
            MetricView(self.report.metric_label(*key), groups[key])
            for key in sorted(groups, key=lambda key: key != decisive)
        ]

    @property
    def findings(self) -> list[tuple[str, str]]:
        """The sentences that evaluators say of the tuned model, each with its metric."""
        found = (
            (self.report.metric_label(event.evaluator, event.metric), event.details.get("finding"))
            for event in self.report.tuned
        )
        return [(label, sentence) for label, sentence in found if isinstance(sentence, str)]

    @property
    def warnings(self) -> list[FindingReported]:
        """The warnings and errors of the reviews."""
        return [finding for finding in self.report.findings if finding.level != "info"]

    @cached_property
    def fit(self) -> Fit | None:
        """The diagnosis of the training; None if it has not finished."""
        return diagnose_fit(self.folder, self.report)

    @property
    def fit_rating(self) -> Literal["good", "warning", ""]:
        """The rating of the fit; empty without one."""
        return rate_fit(self.fit, self.report) if self.fit else ""

    @property
    def predictions(self) -> list[Prediction]:
        """The predicted and the measured memory and time."""
        return list_predictions(self.report)

    @cached_property
    def answers(self) -> Answers | None:
        """The rows with the answers of several models; None if the tuned one was not measured.

        Raises:
            IntegrityError: a file with the values of the rows is lost or damaged.
        """
        return read_answers(self.folder, self.report)

    @property
    def intact_answers(self) -> Answers | None:
        """The answers; None also if a file is lost: ``tunesmith verify`` names it."""
        try:
            return self.answers
        except IntegrityError:
            return None
