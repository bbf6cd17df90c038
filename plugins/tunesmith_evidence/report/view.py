"""Prepare a report for display: every value and phrase is computed here, and only once.

The terminal, Markdown, the HTML page, the card and notebooks only lay out the view. None of them
reads events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from tunesmith.errors import IntegrityError
from tunesmith.events import BASE, TUNED, BaselineChosen, FindingReported, Measured
from tunesmith.execution.report import Report
from tunesmith.text import one_line
from tunesmith_evidence.answers.cut_answers import list_cut_answers
from tunesmith_evidence.fit import FitDiagnosis, diagnose_fit, rate_fit
from tunesmith_evidence.number_text import format_interval, format_number, format_rows
from tunesmith_evidence.report.answer_parts import (
    Confusions,
    FieldScore,
    count_confusions,
    list_error_kinds,
    score_fields,
)
from tunesmith_evidence.report.answers import AnswerRow, Answers, read_answers
from tunesmith_evidence.report.confidence import ConfidenceView, read_confidences
from tunesmith_evidence.report.ending import RunEnding, describe_ending, find_status
from tunesmith_evidence.report.facts import Prediction, list_predictions, name_base_model
from tunesmith_evidence.report.headline import (
    ComparisonRow,
    Headline,
    find_headline,
    list_comparisons,
)

__all__ = ["MetricView", "ReportView", "ScoreRow", "describe_unit"]


@dataclass(frozen=True)
class ScoreRow:
    """A model's score on one metric, formatted as text."""

    model: str
    value: str
    interval: str
    rows: str
    """Number of rows and, if rows depend on each other, the number of their groups."""
    leakage_free: ScoreRow | None = None
    """The score without test rows that have a near-duplicate in training, or None if no row has
    one."""

    @classmethod
    def of(cls, event: Measured) -> ScoreRow:
        """Format a measurement, with its leakage-free score if it has one."""
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


@dataclass(frozen=True)
class VariantRow:
    """A baseline's variant with its score on the validation rows, as text."""

    baseline: str
    variant: str
    score: str
    rows: str
    result: str
    """``chosen``, or why the variant was not chosen."""

    @classmethod
    def list_all(cls, event: BaselineChosen) -> Iterator[VariantRow]:
        """Yield all variants of a baseline: compared, omitted and failed variants."""
        chosen = "chosen"
        if event.test_rows is not None:
            chosen += f"; worst possible score, so tested on at most {event.test_rows} rows"
        for found in (*event.variants, *event.omitted, *event.not_tried):
            score, rows = found.get("score"), found.get("rows", 0)
            yield cls(
                event.baseline,
                str(found["name"]),
                "" if score is None else format_number(score),
                f"{rows:,}" if rows else "",
                str(found.get("reason") or (chosen if found["name"] == event.variant else "")),
            )


def count_right_answers(answers: Answers, baseline: str, verdict: Mapping[str, object]) -> str:
    """Return how many shared rows the tuned model and a baseline got right, as text.

    The result is "" if there are no such rows, or if the metric is not the share of right rows.
    """
    pairs = [(row.find_answer(TUNED), row.find_answer(baseline)) for row in answers.rows]
    both = [(mine.value, other.value) for mine, other in pairs if mine and other]
    if not both or not answers.has_best or any(v not in (0, 1) for pair in both for v in pair):
        return ""
    tuned, others = (sum(values) for values in zip(*both, strict=True))
    scores = verdict.get("tuned"), verdict.get("value")
    for score, count in zip(scores, (tuned, others), strict=True):
        if not isinstance(score, float | int) or abs(score - count / len(both)) > 1e-6:
            return ""  # the metric weighs rows, or is not the share of right rows
    rows = f"{tuned:,.0f} of {len(both):,} right"
    return f"{rows}; {others:,.0f} without fine-tuning ({one_line(baseline)})"


def describe_unit(event: Measured) -> str:
    """Return a metric's unit as text, and whether higher or lower is better."""
    better = "higher" if event.higher_is_better else "lower"
    return f"{event.unit + ', ' if event.unit else ''}{better} is better"


@dataclass(frozen=True)
class MetricView:
    """One metric, with the scores of all models."""

    label: str
    events: Sequence[Measured]

    @property
    def unit(self) -> str:
        """The unit, and whether higher or lower is better."""
        return describe_unit(self.events[0])

    @property
    def description(self) -> str:
        """The unit and the direction, preceded by "validation rows" if these were measured."""
        return f"{'validation rows, ' if self.events[0].part == 'validation' else ''}{self.unit}"

    @property
    def rows(self) -> str:
        """The split that was measured, "test rows" or "validation rows"."""
        return (
            "validation rows"
            if all(event.part == "validation" for event in self.events)
            else "test rows"
        )

    @property
    def fewer_rows(self) -> str:
        """The models that were measured on a part of the rows, as a sentence; empty if none."""
        most = max(event.n for event in self.events)
        fewer = [f"{one_line(e.model)} on {e.n:,}" for e in self.events if e.n < most]
        if not fewer:
            return ""
        return (
            f"Measured on a part of the {most:,} rows: {', '.join(fewer)}. Differences compare the "
            "rows that both models answered."
        )

    @property
    def scores(self) -> list[ScoreRow]:
        """The score of each model, the first measured model first."""
        return [ScoreRow.of(event) for event in self.events]

    @property
    def cut(self) -> str:
        """Text with the number of answers cut off by ``max_new_tokens``, or "" if none were."""
        return list_cut_answers(self.events)


@dataclass(frozen=True)
class ReportView:
    """The view of a run's report. Each part is computed on first access."""

    report: Report
    folder: Path
    """The run folder, which contains the value of each row."""

    @property
    def name(self) -> str:
        """``[run] name``, by default the run file's name."""
        return self.report.name

    @property
    def title(self) -> str:
        """The run file's title or the run's name, and the base model's name."""
        started = self.report.started
        title = started.plan.get("run", {}).get("title") if started else None
        return " - ".join(filter(None, [str(title or self.name), name_base_model(self.report)]))

    @cached_property
    def apart(self) -> frozenset[str]:
        """The evaluators with rows other than the test rows: those that measured the base model.

        These are the evaluators of side effects.
        """
        measured = self.report.measured.values()
        return frozenset(event.evaluator for event in measured if event.model == BASE)

    @cached_property
    def status(self) -> str:
        """The run's status, including ``running``."""
        return find_status(self.folder, self.report)

    @cached_property
    def headline(self) -> Headline:
        """The verdict as a word, a figure and a sentence."""
        return find_headline(self.report, self.status)

    @cached_property
    def ending(self) -> RunEnding | None:
        """The early end of the run, or None if it is running, succeeded or has a verdict."""
        return describe_ending(self.folder, self.report)

    @property
    def error(self) -> str:
        """The error of a run that failed after its verdict, otherwise an empty string."""
        finished = self.report.finished
        return finished.error if finished and finished.verdict else ""

    def list_next_commands(self, run: str) -> list[str]:
        """Return the commands that a user is likely to need next; ``run`` is quoted for a shell."""
        report, commands = self.report, []
        if self.ending is not None and report.status != "stopped":  # its message has the command
            commands.append(self.ending.format_command(run))
        if report.training_finished.get("") is not None:
            if report.verdict.get("winner"):
                commands.append(f"tunesmith chat {run} --winner")
            commands.append(f"tunesmith chat {run} --compare base")
        if report.verdict.get("worth_it") or report.verdict.get("winner"):
            commands.append(f"tunesmith serve {run}")
        return commands

    @property
    def comparisons(self) -> list[ComparisonRow]:
        """The comparisons of the tuned model with its baselines."""
        return [*list_comparisons(self.report.verdict)]

    @property
    def variants(self) -> list[VariantRow]:
        """All variants of all baselines: compared, omitted and failed variants."""
        chosen = self.report.baselines.values()
        return [row for event in chosen for row in VariantRow.list_all(event)]

    @cached_property
    def metrics(self) -> list[MetricView]:
        """The metrics, starting with the verdict's metric."""
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
        """The sentences that evaluators report about the tuned model, with the metric's name."""
        found = (
            (self.report.metric_label(event.evaluator, event.metric), event.details.get("finding"))
            for event in self.report.tuned
        )
        return [(label, sentence) for label, sentence in found if isinstance(sentence, str)]

    @property
    def warnings(self) -> list[FindingReported]:
        """The findings with level warning or error."""
        return [finding for finding in self.report.findings if finding.level != "info"]

    @cached_property
    def fit(self) -> FitDiagnosis | None:
        """The diagnosis of the model's fit to its training data, or None before training ends."""
        return diagnose_fit(self.folder, self.report)

    @property
    def fit_rating(self) -> Literal["good", "warning", ""]:
        """The rating of the fit, or an empty string without a diagnosis."""
        return rate_fit(self.fit, self.report) if self.fit else ""

    @property
    def predictions(self) -> list[Prediction]:
        """The predicted and the measured memory and time."""
        return list_predictions(self.report)

    @cached_property
    def answers(self) -> Answers | None:
        """The test rows with each model's answers or values; None if no values per row are known.

        Raises:
            IntegrityError: a per-row results file is missing or damaged.
        """
        return read_answers(self.folder, self.report)

    @cached_property
    def field_scores(self) -> list[FieldScore]:
        """The scores of JSON fields, or an empty list unless expected answers are JSON objects."""
        answers = self.intact_answers
        return score_fields(answers) if answers and answers.has_texts else []

    @cached_property
    def confusions(self) -> Confusions | None:
        """The labels that the tuned model confuses, or None unless expected answers are labels."""
        answers = self.intact_answers
        return count_confusions(answers, TUNED) if answers and answers.has_texts else None

    @cached_property
    def error_kinds(self) -> Mapping[str, Sequence[AnswerRow]]:
        """The tuned model's wrong answers by kind of error, the most frequent kind first."""
        answers = self.intact_answers
        return list_error_kinds(answers) if answers else {}

    @cached_property
    def confidences(self) -> ConfidenceView | None:
        """The tuned model's confidences; None if they are missing, or a file is damaged."""
        try:
            return read_confidences(self.folder, self.report)
        except IntegrityError:
            return None

    @cached_property
    def right_answers(self) -> str:
        """The right answers with and without fine-tuning, in words.

        For example: "87 of 100 right; 42 without fine-tuning (fields)". The text is empty if the
        verdict's metric does not count right answers.
        """
        answers, baseline = self.intact_answers, str(self.report.verdict.get("baseline", ""))
        return count_right_answers(answers, baseline, self.report.verdict) if answers else ""

    @property
    def intact_answers(self) -> Answers | None:
        """The answers, or None if a file is missing or damaged (``tunesmith verify`` names it)."""
        try:
            return self.answers
        except IntegrityError:
            return None
