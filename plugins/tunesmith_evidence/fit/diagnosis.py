"""Diagnose the fit of a training: the first of these that applies.

A training whose loss has risen is underfitted, whatever else is true.

=============  ===================================================================================
memorized      the tuned model's loss tells a training row from a test row: the probability that
               a training row has the lower one (AUC) is at least :data:`MEMORISED_AUC`, and the
               mean loss of training rows is at most half that of test rows
overfitted     training went on for too long: the validation loss after the last step is above
               the lowest one by more than its interval
underfitted    more training should help. One of these: the validation loss (the training loss,
               where there is none) still falls in the last part of the training; the model needs
               more nats for the labels of its training rows than one as good as a better
               classifier would (:mod:`tunesmith_evidence.fit.labels`); the loss on test rows is
               not below that of the base model by more than its interval; a loss of preferences
               has hardly moved from that of the untrained model
fitted         none of these, and the loss has leveled off while the learning rate was not yet near
               0 (:mod:`tunesmith_evidence.fit.course`), or hardly anything is left to learn
unclear        none of these
=============  ===================================================================================

Test rows are used by their losses and scores only, after everything has been chosen. The
threshold of the AUC was chosen on tiny runs, and measured on others:
``tests/benchmarks/memorized.py``. The rules about more training were stated first and measured
then: ``tests/benchmarks/undertrained.py``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tunesmith.errors import IntegrityError
from tunesmith.events import JSON, TUNED, Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.statistics import Interval
from tunesmith.text import format_count
from tunesmith_evidence.fit.course import Course, Fall, find_rise, read_course
from tunesmith_evidence.fit.labels import count_other_answers, find_label_cost
from tunesmith_evidence.number_text import format_interval, format_number, format_rate, format_share
from tunesmith_evidence.pairs import read_pairs
from tunesmith_evidence.statistics import paired_difference
from tunesmith_evidence.statistics.ranks import probability_below

FitState = Literal["memorized", "overfitted", "underfitted", "fitted", "unclear"]

MEMORISED_AUC = 0.75
"""AUC from which on training rows may count as memorized."""
GAP_AUC = 0.6
"""AUC above which the model has learned its training rows better than new ones."""
MEMORISED_LOSS = 0.5
"""Loss of memorized training rows, at most, as a share of that of test rows."""
MIN_ROWS = 10
"""Rows of each kind below which an AUC says nothing."""
MOVED = 0.05
"""Fall of a loss of preferences since the start, as a share of it, below which it hardly moved."""
LEARNED = 0.05
"""Training loss, in nats per token, below which there is hardly anything left to learn."""
FACTOR = 3
"""Factor by which more steps, or a higher learning rate, are worth a try."""
HIGHEST_RATE = 1e-3
"""Learning rate above which none is advised."""
VALIDATION_FILE = "validation.json"
"""File of a training with the validation loss of each row, at the best step and at the last one;
those of earlier versions do not have the rows' groups."""
BASE = "zero-shot"
"""The baseline that is the untouched base model, with the run's system prompt."""


@dataclass(frozen=True)
class Fit:
    """The diagnosis, and what it follows from."""

    state: FitState
    sentence: str
    values: dict[str, float] = field(default_factory=dict)
    """``auc`` with the mean losses ``train_loss`` and ``test_loss``; ``validation_rise`` with its
    ``validation_rise_low``; ``gain`` over the base model with its ``gain_low``; ``fall``, the share
    by which the loss fell in the last part; ``answer_nats`` of a training answer with the
    ``answer_bound`` of a classifier; ``moved``, the share by which a loss of preferences fell:
    those that could be computed."""

    def to_json(self) -> JSON:
        """Return all fields by name."""
        return asdict(self)


Finding = tuple[FitState, str]


def diagnose_fit(folder: Path, report: Report) -> Fit | None:
    """Return the diagnosis of a finished training; None if it left nothing to tell it from.

    Args:
        folder: the run folder.
        report: the report of the run.

    Raises:
        IntegrityError: an evaluation's file is damaged.
    """
    if "" not in report.training_finished:
        return None
    stage = list(report.training_started)[-1] if report.training_started else ""
    course, values = read_course(report, stage), dict[str, float]()
    _measure_gap(folder, report, values)
    gain = _measure_gain(folder, report, values)
    rise = _measure_rise(folder / stage / VALIDATION_FILE, values)
    finding = (
        _find_risen(course)
        or _find_memorized(values, rise)
        or (rise.finding if rise is not None else None)
        or _find_underfitted(folder, report, course, values, gain)
        or _find_fitted(report, course, values)
    )
    return Fit(*finding, values) if finding is not None else None


def rate_fit(fit: Fit, report: Report) -> Literal["good", "warning", ""]:
    """Return how a diagnosis is shown: one that is unclear is neither good nor a warning.

    A model that fits its data is no good news if it gets no row right by one of its metrics.
    """
    if fit.state not in ("fitted", "unclear"):
        return "warning"
    gets_nothing_right = any(event.higher_is_better and event.value == 0 for event in report.tuned)
    return "" if fit.state == "unclear" or gets_nothing_right else "good"


# ----------------------------------------------------------------- too much, or too fast


def _find_risen(course: Course) -> Finding | None:
    """Compare the training losses of the last steps with that of the first."""
    if course.is_of_pairs or not course.is_of_data:
        return None
    risen = find_rise(course.losses)
    if risen is None:
        return None
    return "underfitted", (
        f"the training loss has risen, from {format_number(course.losses[0][1])} at the first step "
        f"to {format_number(risen)} in the last third; train with a lower learning rate, or with a "
        "longer warmup (schedule.warmup_ratio)"
    )


def _measure_gap(folder: Path, report: Report, values: dict[str, float]) -> None:
    """Compare the losses of training rows with those of test rows."""
    for trained in report.training_rows.values():
        test = report.measured.get((TUNED, trained.evaluator, trained.metric))
        if test is None or trained.higher_is_better:
            continue
        losses = [_row_values(folder, event) for event in (trained, test)]
        if min(map(len, losses)) >= MIN_ROWS:
            values["auc"] = probability_below(*losses)
            values["train_loss"], values["test_loss"] = trained.value, test.value
            return


@dataclass(frozen=True)
class _Rise:
    """The rise of the validation loss from the best step to the last one."""

    best: int
    last: int
    interval: Interval

    @property
    def finding(self) -> Finding | None:
        """The finding, if the rise is clear."""
        rise = self.interval
        if self.best == self.last or rise.low <= 0:
            return None
        return "overfitted", (
            f"the validation loss at step {self.last} is above that of step {self.best} by "
            f"{format_number(rise.value)} {format_interval(rise.low, rise.high)}; with fewer "
            "epochs the result is the same, or better where the last step is the artifact"
        )


def _measure_rise(path: Path, values: dict[str, float]) -> _Rise | None:
    """Compare the validation loss after the last step with the lowest one, row by row."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        best, last = content["best"], content["last"]
        rise = paired_difference(
            best["losses"], last["losses"], best["weights"], groups=last.get("groups")
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{path}: is damaged, {error!s:.80}") from None
    if best["step"] != last["step"]:
        values |= {"validation_rise": rise.value, "validation_rise_low": rise.low}
    return _Rise(best["step"], last["step"], rise)


def _find_memorized(values: dict[str, float], rise: _Rise | None) -> Finding | None:
    """Return the finding with advice that follows from the validation loss, or from nothing."""
    if values.get("auc", 0.0) < MEMORISED_AUC:
        return None
    if values["train_loss"] > MEMORISED_LOSS * values["test_loss"]:
        return None
    advice = "more rows would help"
    if rise is not None and rise.finding is not None:
        advice += f"; the validation loss rises after step {rise.best}: train for fewer epochs"
    elif rise is not None and rise.best == rise.last:
        advice += "; fewer epochs would not: the validation loss was lowest at the end"
    if values.get("gain_low", 0.0) > 0:
        advice += "; it has learned the task too: " + _describe_gain(values)
    return "memorized", f"{_describe_gap(values)}; {advice}"


def _describe_gap(values: dict[str, float]) -> str:
    train, test = (format_number(values[f"{part}_loss"]) for part in ("train", "test"))
    return (
        f"in {format_share(values['auc'])} of all pairs of a training and a test row, the "
        "training row has the lower loss (a model that generalizes: about 50 %): "
        f"{train} on training rows, {test} on test rows"
    )


# ----------------------------------------------------------------- too little


def _find_underfitted(
    folder: Path,
    report: Report,
    course: Course,
    values: dict[str, float],
    gain: Interval | None,
) -> Finding | None:
    """Return the finding with all reasons for more training."""
    reasons = [
        *_find_no_gain(gain, values),
        *_find_falling(report, course, values),
        *_find_unlearned(folder, report, course, values),
        *_find_unmoved(course, values),
    ]
    if not reasons:
        return None
    others, count = count_other_answers(report)
    if others:
        reasons.append(f"{others:,} of {count:,} answers are none of the labels")
    is_worse = gain is not None and gain.high < 0
    return "underfitted", "; ".join([*reasons, _describe_remedy(course, is_worse)])


def _find_no_gain(gain: Interval | None, values: dict[str, float]) -> Iterator[str]:
    """Compare the tuned model with the base model.

    A model that knows its training rows better than others has learned something: that it is not
    better on test rows has another cause.
    """
    if gain is None or gain.low > 0 or values.get("auc", 0.0) > GAP_AUC:
        return
    if gain.high < 0:
        yield (
            f"the loss on test rows is {format_number(-gain.value)} "
            f"{format_interval(-gain.high, -gain.low)} above that of {BASE}, the base model with "
            "its prompt"
        )
    else:
        yield (
            "the loss on test rows is not clearly below that of the base model: by "
            f"{format_number(gain.value)} {format_interval(gain.low, gain.high)}"
        )


def _measure_gain(folder: Path, report: Report, values: dict[str, float]) -> Interval | None:
    """Return the loss of the base model minus that of the tuned one.

    It is over the rows of the base model, which may have been asked for fewer.
    """
    for trained in report.training_rows.values():
        key = trained.evaluator, trained.metric
        base, tuned = (report.measured.get((model, *key)) for model in (BASE, TUNED))
        if base is None or tuned is None or trained.higher_is_better:
            continue
        pairs = read_pairs(folder, base, tuned)
        gain = paired_difference(
            pairs.tuned_values, pairs.baseline_values, pairs.weights, groups=pairs.groups
        )
        values |= {"gain": gain.value, "gain_low": gain.low}
        return gain
    return None


def _find_falling(report: Report, course: Course, values: dict[str, float]) -> Iterator[str]:
    """Yield that the loss still falls, unless it may only do so as rows are learned by heart."""
    fall = course.find_fall()
    if fall is None:
        return
    values["fall"] = fall.share
    by_heart = not fall.is_validation and values.get("auc", 0.0) > GAP_AUC
    if fall.is_clear and not by_heart and not _is_learned(report, course, values):
        yield (
            f"the {_name_of(fall)} still fell by {format_share(fall.share)} in the last "
            "third of the training (by the sum of the learning rates)"
        )


def _name_of(fall: Fall) -> str:
    return "validation loss" if fall.is_validation else "training loss"


def _find_unlearned(
    folder: Path, report: Report, course: Course, values: dict[str, float]
) -> Iterator[str]:
    cost = find_label_cost(folder, report, course)
    if cost is None:
        return
    values |= {"answer_nats": cost.nats, "answer_bound": cost.bound}
    if cost.nats > cost.bound:
        yield (
            f"an answer of the training rows costs the tuned model {format_number(cost.nats)} "
            f"nats, where one that knows them as well as {cost.classifier} knows new rows needs "
            f"at most {format_number(cost.bound)}"
        )


def _find_unmoved(course: Course, values: dict[str, float]) -> Iterator[str]:
    """Compare a loss of preferences with that of the untrained model."""
    losses = [step.loss for step in course.steps]
    if not course.is_of_pairs or losses[0] <= 0:
        return
    last = statistics.fmean(step.loss for step in course.last_steps)
    values["moved"] = moved = (losses[0] - last) / losses[0]
    if moved < MOVED:
        yield (
            f"the loss has hardly moved from that of the untrained model, "
            f"{format_number(losses[0])} to {format_number(last)}"
        )


def _describe_remedy(course: Course, is_worse: bool) -> str:
    """Return what to change, with numbers; if the model is worse, no direction is known."""
    steps = len(course.steps)
    if is_worse or not steps:
        which = "another" if is_worse else "a higher"
        return f"train for more epochs, or with {which} learning rate"
    advice = f"train for more epochs ({FACTOR * steps:,} steps instead of {steps:,}, say)"
    rate = max(step.learning_rate for step in course.steps)
    if FACTOR * rate > HIGHEST_RATE:
        return advice
    rates = f"{format_rate(FACTOR * rate)} instead of {format_rate(rate)}"
    return f"{advice}, or with a higher learning rate ({rates})"


# ----------------------------------------------------------------- neither


def _find_fitted(report: Report, course: Course, values: dict[str, float]) -> Finding | None:
    """Return that the training fits, if something shows it; None if nothing was measured."""
    fall = course.find_fall()
    parts = list(_describe_values(values))
    if fall is not None and fall.has_levelled_off:
        return "fitted", "; ".join([*parts, f"the {_name_of(fall)} has leveled off"])
    if _is_learned(report, course, values):
        return "fitted", "; ".join([*parts, "hardly anything is left to learn"])
    if not parts and not (course.steps and course.is_of_data):
        return None
    missing = "nothing that was measured shows"
    if fall is not None:
        missing = "the losses of the last steps differ too much to show"
    elif course.steps and course.is_of_data:
        missing = f"{format_count(len(course.steps), 'step')} are too few to show"
    return "unclear", "; ".join([*parts, f"{missing} if more training would help"])


def _is_learned(report: Report, course: Course, values: dict[str, float]) -> bool:
    """Return True if the training loss is near 0, or the first score cannot be better."""
    score = next(iter(report.tuned), None)
    if score is not None and score.higher_is_better and score.value == score.highest:
        return True
    last = [step.loss for step in course.last_steps] if course.is_of_data else []
    loss = values.get("train_loss", statistics.fmean(last) if last else None)
    return loss is not None and loss < LEARNED


def _describe_values(values: dict[str, float]) -> Iterator[str]:
    if values.get("auc", 0.0) > GAP_AUC:
        yield _describe_gap(values)
    elif "auc" in values:
        yield f"a training row has the lower loss in {format_share(values['auc'])} of all pairs"
    if "validation_rise" in values:
        yield "the validation loss did not rise clearly"
    if "gain" in values:
        yield _describe_gain(values)


def _describe_gain(values: dict[str, float]) -> str:
    if values["gain_low"] <= 0:
        return "the loss on test rows is not clearly below that of the base model"
    gain = format_number(values["gain"])
    return f"the loss on test rows is {gain} below that of the base model"


def _row_values(folder: Path, event: Measured) -> list[float]:
    """Return the values of the rows that have tokens."""
    columns = [row[event.metric] for row in read_rows(folder / event.records, event.metric)]
    return [column["value"] for column in columns if column["weight"]]
