"""Read the test rows with the answers of the base model, a baseline and the tuned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tunesmith.events import TUNED, Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_number
from tunesmith_evidence.report.previews import PreviewImage, read_previews, replace_parts
from tunesmith_evidence.slices.candidates import MIN_ROWS
from tunesmith_evidence.slices.discover import WeakSlice, find_weak_slices
from tunesmith_evidence.slices.items import find_wrong_rows, has_best_value
from tunesmith_evidence.slices.rows import ScoredRow, Turns, find_row_metric, to_scored_rows

__all__ = ["Answer", "AnswerRow", "Answers", "read_answers"]

BASE_MODELS = ("zero-shot", "base")
"""Names of the untuned base model; earlier versions used the second one."""


@dataclass(frozen=True)
class Answer:
    """A model's answer to a row, and the value of this answer."""

    model: str
    text: str
    """The answer, or the metric's name and value if the evaluator did not store answers."""
    value: float
    """Value of the answer, in the metric's unit."""
    is_right: bool | None
    """True if the value is the best possible, or None if the metric has no best value."""

    @property
    def is_partly_right(self) -> bool:
        """True if the value lies between the values of a wrong and a right answer."""
        return self.is_right is False and self.value > 0

    @property
    def shown(self) -> str:
        """The text of the answer, or "(empty)"."""
        return self.text.strip() or "(empty)"


@dataclass(frozen=True)
class AnswerRow:
    """A test row with its answers, where the tuned model's answer is the last."""

    source: str
    prompt: Turns
    expected: str
    answers: tuple[Answer, ...]
    is_wrong: bool
    """True if the tuned model's value is not the best possible.

    For metrics without a best value, it is True in the worse half of the rows."""
    is_regressed: bool
    """True if another model did better than the tuned model."""
    group: str | None = None
    images: tuple[PreviewImage, ...] = ()
    """The pictures of the prompt's images, in order."""

    @property
    def is_partly_right(self) -> bool:
        """True if the tuned model's answer is partly right."""
        return bool(self.answers) and self.answers[-1].is_partly_right

    @property
    def question(self) -> str:
        """The user's last turn, or the last turn of any role, or "" if no prompt was stored."""
        user = [text for role, text in self.prompt if role == "user"]
        return user[-1] if user else self.prompt[-1][1] if self.prompt else ""

    @property
    def asked(self) -> list[tuple[str, str]]:
        """The question (if stored) and the expected answer, each after its label."""
        question = [("prompt", self.question)] if self.question else []
        return [*question, ("expected", self.expected)]

    def find_answer(self, model: str) -> Answer | None:
        """Return a model's answer, or None if the model was not asked."""
        return next((answer for answer in self.answers if answer.model == model), None)


@dataclass(frozen=True)
class Answers:
    """A run's rows with one metric: regressed rows, then other incorrect rows, then the rest."""

    label: str
    models: Sequence[str]
    """The models with answers: base model, the verdict's baseline and the tuned model."""
    rows: Sequence[AnswerRow]
    slices: Sequence[WeakSlice]
    """The slices that were tested for weakness."""
    has_texts: bool = True
    """False if the evaluator stored no answers, so that only their values are known."""
    has_best: bool = True
    """False if the metric has no best value, so that no row can be called right."""
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Counts of the tuned model's answers by expected and given label, from an evaluator that reads
    labels; ``""`` stands for answers without a label."""

    @property
    def was_sliced(self) -> bool:
        """True if there are enough rows to look for weak slices."""
        return len(self.rows) >= 2 * MIN_ROWS

    @property
    def summary(self) -> str:
        """The number of wrong, partly right and regressed rows, as text."""
        wrong, worse = len(self.wrong), len(self.regressed)
        partly = sum(row.is_partly_right for row in self.wrong)
        text = f"{wrong - partly:,} of {format_count(len(self.rows), 'row')} wrong"
        text += f", {partly:,} partly right" if partly else ""
        if not self.has_best:
            text = f"the worst {wrong:,} of {format_count(len(self.rows), 'row')}"
        return f"{text}; another model did better on {worse:,}" if worse else text

    @property
    def wrong(self) -> list[AnswerRow]:
        """The rows that are not fully right, or the worse half if the metric has no best value."""
        return [row for row in self.rows if row.is_wrong]

    @property
    def regressed(self) -> list[AnswerRow]:
        """The rows on which another model did better."""
        return [row for row in self.rows if row.is_regressed]


def read_answers(folder: Path, report: Report) -> Answers | None:
    """Return the rows with their values of the verdict's metric.

    A metric of all rows together, such as F1, has no value per row. In that case, use another
    metric of the same evaluator.

    Returns:
        The rows, or None if the tuned model was not measured or no metric has a value per row.

    Raises:
        IntegrityError: a per-row results file is missing or damaged.
    """
    decisive = _find_decisive(report)
    tuned = decisive and find_row_metric(folder, report, decisive)
    if tuned is None:
        return None
    rows = _read(folder, tuned)
    higher = tuned.higher_is_better
    others = {
        event.model: {row.number: row for row in _read(folder, event)}
        for event in _find_others(report, tuned)
    }
    has_best = has_best_value(tuned)
    wrong = {row.number for row in find_wrong_rows(rows, higher, has_best=has_best)}
    answered = [*rows, *(row for by_number in others.values() for row in by_number.values())]
    has_texts = any(row.output for row in answered)
    previews = read_previews(folder)
    found = [
        _show_images(_build_row(row, others, row.number in wrong, tuned, has_texts), previews)
        for row in rows
    ]
    found.sort(key=lambda row: (not row.is_regressed, not row.is_wrong))
    slices = find_weak_slices(rows, higher) if len(rows) >= 2 * MIN_ROWS else []
    label = report.metric_label(tuned.evaluator, tuned.metric)
    confusion = tuned.details.get("confusion", {})
    return Answers(label, [*others, TUNED], found, slices, has_texts, has_best, confusion)


def _find_decisive(report: Report) -> Measured | None:
    """Return the tuned model's measurement with the verdict's metric, or its first, or None."""
    verdict = report.verdict
    key = (verdict.get("evaluator"), verdict.get("metric"))
    events = report.tuned
    decisive = [event for event in events if (event.evaluator, event.metric) == key]
    return next(iter(decisive or events), None)


def _find_others(report: Report, tuned: Measured) -> list[Measured]:
    """Return the measurements of the base model and the verdict's baseline with the same metric."""
    names = [*BASE_MODELS, str(report.verdict.get("baseline", ""))]
    measured = {
        event.model: event
        for event in report.measured.values()
        if (event.evaluator, event.metric) == (tuned.evaluator, tuned.metric)
    }
    return [measured[name] for name in dict.fromkeys(names) if name in measured and name != TUNED]


def _read(folder: Path, event: Measured) -> list[ScoredRow]:
    return to_scored_rows(read_rows(folder / event.records, event.metric), event.metric)


def _build_row(
    row: ScoredRow,
    others: dict[str, dict[int, ScoredRow]],
    is_wrong: bool,
    tuned: Measured,
    has_texts: bool,
) -> AnswerRow:
    sign = 1 if tuned.higher_is_better else -1
    by_model = {name: rows[row.number] for name, rows in others.items() if row.number in rows}
    answers = [
        _build_answer(name, answer, tuned, has_texts)
        for name, answer in [*by_model.items(), (TUNED, row)]
    ]
    is_regressed = any(sign * (other.value - row.value) > 0 for other in by_model.values())
    return AnswerRow(
        row.source, row.prompt, row.expected, tuple(answers), is_wrong, is_regressed, row.group
    )


def _show_images(row: AnswerRow, previews: Mapping[str, PreviewImage]) -> AnswerRow:
    """Return the row with descriptions in place of its images, and with their pictures."""
    turns = [(role, *replace_parts(text, previews)) for role, text in row.prompt]
    return replace(
        row,
        prompt=tuple((role, text) for role, text, _ in turns),
        images=tuple(image for *_, images in turns for image in images),
    )


def _build_answer(model: str, row: ScoredRow, metric: Measured, has_texts: bool) -> Answer:
    is_right = row.value >= 1 if has_best_value(metric) else None
    shows_value = is_right is None or not has_texts
    text = row.output or (f"{metric.metric} {format_number(row.value)}" if shows_value else "")
    return Answer(model, text, row.value, is_right)
