"""Diagnose how well a run fits its data by returning the first diagnosis that applies.

A run whose training loss has risen counts as underfitted, whatever else is true. Otherwise:

**memorized**
    The tuned model's loss separates training rows from test rows. The probability that a training
    row has the lower loss (AUC) is at least :data:`MEMORIZED_AUC`, and the mean training loss is
    at most half of the test loss.

**overfitted**
    The model was trained for too long. The validation loss after the last step is above the lowest
    one, and the confidence interval of the difference excludes 0.

**underfitted**
    More training should help, for at least one of these reasons:

    - The validation loss (or the training loss, if there is none) is still falling in the last
      part. A training loss does not count if it is clearly lower than that of new rows.
    - The training labels cost the model more nats than they would cost a model as good as a
      better classifier (:mod:`tunesmith_evidence.fit.labels`).
    - The test loss is not clearly below the base model's test loss.
    - A preference loss has hardly moved from the loss of the untrained model.

**fitted**
    The loss leveled off before the learning rate came close to 0
    (:mod:`tunesmith_evidence.fit.course`), or hardly anything is left to learn.

**unclear**
    None of the above.

Only losses and scores on test rows are used, after all choices have been made.
``tests/benchmarks/memorized.py`` measures the AUC threshold on different runs from those it was
chosen on. ``tests/benchmarks/undertrained.py`` measures the rules for underfitting.
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
from tunesmith.statistics import Interval, mean_interval
from tunesmith.text import format_count
from tunesmith_evidence.fit.course import LossFall, LossHistory, find_rise, read_loss_history
from tunesmith_evidence.fit.labels import count_other_answers, find_label_cost
from tunesmith_evidence.number_text import format_interval, format_number, format_rate, format_share
from tunesmith_evidence.pairs import read_pairs
from tunesmith_evidence.statistics import paired_difference
from tunesmith_evidence.statistics.ranks import probability_below

FitState = Literal["memorized", "overfitted", "underfitted", "fitted", "unclear"]

MEMORIZED_AUC = 0.75
"""Minimum AUC at which training rows count as memorized."""
GAP_AUC = 0.6
"""AUC above which the model has learned its training rows better than new rows."""
MEMORIZED_LOSS = 0.5
"""Maximum training loss of memorized rows, as a share of the test loss."""
MIN_ROWS = 10
"""Minimum number of training rows and of test rows for a meaningful AUC."""
MIN_MOVED = 0.05
"""A preference loss has hardly moved if it fell by less than this share since the start."""
MAX_LEARNED_LOSS = 0.05
"""Training loss below which hardly anything is left to learn, in nats per token."""
RETRY_FACTOR = 3
"""Suggested factor for increasing the steps or the learning rate."""
MAX_LEARNING_RATE = 1e-3
"""Highest learning rate to suggest."""
VALIDATION_FILE = "validation.json"
"""File with the validation loss of each row at the best and at the last step.

Files written by earlier versions lack the groups of rows."""
ZERO_SHOT = "zero-shot"
"""The baseline that is the untuned base model with the run's system prompt."""


@dataclass(frozen=True)
class FitDiagnosis:
    """The diagnosis, and the values that it is based on."""

    state: FitState
    sentence: str
    values: dict[str, float] = field(default_factory=dict)
    """The values that could be computed. ``*_low`` is the lower end of a confidence interval.

    - ``auc``, and the mean losses ``train_loss`` and ``test_loss``
    - ``validation_rise``, ``validation_rise_low``: increase in the validation loss after the best
      step
    - ``gain``, ``gain_low``: the base model's loss minus the tuned model's loss
    - ``fall``: relative drop in the loss in the last part
    - ``answer_nats``: cost of a training answer; ``answer_bound``: the bound from a classifier
    - ``moved``: relative drop in a preference loss since the start
    """

    def to_json(self) -> JSON:
        """Return the diagnosis as JSON, with all fields by name."""
        return asdict(self)


Finding = tuple[FitState, str]


def diagnose_fit(folder: Path, report: Report) -> FitDiagnosis | None:
    """Diagnose a run, or return None if it is unfinished or nothing useful was measured.

    Args:
        folder: the run folder.
        report: the report of the run.

    Raises:
        IntegrityError: a per-row results file is damaged.
    """
    if "" not in report.training_finished:
        return None
    stage = list(report.training_started)[-1] if report.training_started else ""
    course, values = read_loss_history(report, stage), dict[str, float]()
    _measure_gap(folder, report, values)
    gain = _measure_gain(folder, report, values)
    rise = _measure_rise(folder / stage / VALIDATION_FILE, values)
    finding = (
        _find_risen(course)
        or _find_memorized(values, rise)
        or (rise.finding if rise is not None else None)
        or _find_underfitted(folder, report, course, values, gain, rise)
        or _find_fitted(report, course, values)
    )
    return FitDiagnosis(*finding, values) if finding is not None else None


def rate_fit(fit: FitDiagnosis, report: Report) -> Literal["good", "warning", ""]:
    """Return the rating of a diagnosis: good, a warning, or neither if the diagnosis is unclear.

    A fitted model is not rated good if one of its metrics is 0 although higher is better: it gets
    no rows right.
    """
    if fit.state not in ("fitted", "unclear"):
        return "warning"
    gets_nothing_right = any(event.higher_is_better and event.value == 0 for event in report.tuned)
    return "" if fit.state == "unclear" or gets_nothing_right else "good"


# ----------------------------------------------------------------- too much, or too fast


def _find_risen(course: LossHistory) -> Finding | None:
    """Return ``underfitted`` if the training loss has risen since the first step, or None."""
    if course.is_of_pairs or not course.is_of_data:
        return None
    risen = find_rise(course.losses)
    if risen is None:
        return None
    return "underfitted", (
        f"the training loss has risen, from {format_number(course.losses[0][1])} at the first "
        f"step to {format_number(risen)} in the last third; train with a lower learning rate, or "
        "with a longer warmup (schedule.warmup_ratio in [technique])"
    )


def _measure_gap(folder: Path, report: Report, values: dict[str, float]) -> None:
    """Store the AUC and the mean losses on training and test rows in ``values``."""
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
    """The increase in the validation loss from the best step to the last one, and the last loss."""

    best: int
    last: int
    interval: Interval
    """The increase."""
    at_end: Interval
    """The validation loss after the last step."""

    @property
    def finding(self) -> Finding | None:
        """The diagnosis ``overfitted`` with its sentence, or None unless the increase is clear."""
        rise = self.interval
        if self.best == self.last or rise.low <= 0:
            return None
        return "overfitted", (
            f"the validation loss at step {self.last} is above that of step {self.best} by "
            f"{format_number(rise.value)} {format_interval(rise.low, rise.high)}; fewer "
            "epochs give the same result, or a better one if the last step is kept"
        )


def _measure_rise(path: Path, values: dict[str, float]) -> _Rise | None:
    """Compare the validation loss after the last step with the lowest one, row by row.

    The result is None if the run did not store the losses of single rows.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        best, last = content["best"], content["last"]
        rise = paired_difference(
            best["losses"], last["losses"], best["weights"], groups=last.get("groups")
        )
        at_end = mean_interval(last["losses"], last["weights"], groups=last.get("groups"))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{path}: this file is damaged: {error!s:.80}") from None
    if best["step"] != last["step"]:
        values |= {"validation_rise": rise.value, "validation_rise_low": rise.low}
    return _Rise(best["step"], last["step"], rise, at_end)


def _find_memorized(values: dict[str, float], rise: _Rise | None) -> Finding | None:
    """Return ``memorized`` with advice, or None if the model did not memorize training rows.

    The validation loss shows whether fewer epochs would help.
    """
    if values.get("auc", 0.0) < MEMORIZED_AUC:
        return None
    if values["train_loss"] > MEMORIZED_LOSS * values["test_loss"]:
        return None
    advice = "more training rows would help"
    if rise is not None and rise.finding is not None:
        advice += f"; the validation loss rises after step {rise.best}: train for fewer epochs"
    elif rise is not None and rise.best == rise.last:
        advice += "; fewer epochs would not help, since the validation loss was lowest at the end"
    if values.get("gain_low", 0.0) > 0:
        advice += "; the model has also learned the task: " + _describe_gain(values)
    return "memorized", f"{_describe_gap(values)}; {advice}"


def _describe_gap(values: dict[str, float]) -> str:
    train, test = (format_number(values[f"{part}_loss"]) for part in ("train", "test"))
    return (
        f"the loss is {train} on training rows and {test} on test rows; in a random pair of a "
        "training and a test row, the training row has the lower loss "
        f"{format_share(values['auc'])} of the time (50 % if the model generalizes)"
    )


# ----------------------------------------------------------------- too little


def _find_underfitted(
    folder: Path,
    report: Report,
    course: LossHistory,
    values: dict[str, float],
    gain: Interval | None,
    rise: _Rise | None,
) -> Finding | None:
    """Return ``underfitted`` with all the reasons for more training, or None without a reason."""
    reasons = [
        *_find_no_gain(gain, values),
        *_find_falling(report, course, values, rise),
        *_find_unlearned(folder, report, course, values),
        *_find_unmoved(course, values),
    ]
    if not reasons:
        return None
    others, count = count_other_answers(report)
    if others:
        are = "is" if others == 1 else "are"
        reasons.append(f"{others:,} of {count:,} answers {are} not one of the labels")
    is_worse = gain is not None and gain.high < 0
    is_settled = _read_pilots(report).get("is_largest") is False
    return "underfitted", "; ".join([*reasons, _describe_remedy(course, is_worse, is_settled)])


def _read_pilots(report: Report) -> JSON:
    """Return the facts about the pilot runs that chose the learning rate.

    The result is empty if there were none.
    """
    started = [*report.training_started.values()][-1:]
    facts: JSON = started[0].details.get("rate_pilots", {}) if started else {}
    return facts


def _find_no_gain(gain: Interval | None, values: dict[str, float]) -> Iterator[str]:
    """Yield a reason if the tuned model's test loss is not clearly below the base model's.

    A model that knows its training rows better than new rows has learned something. If it is still
    not better on test rows, too little training is not the cause.
    """
    if gain is None or gain.low > 0 or values.get("auc", 0.0) > GAP_AUC:
        return
    if gain.high < 0:
        yield (
            f"the test loss is {format_number(-gain.value)} "
            f"{format_interval(-gain.high, -gain.low)} above that of {ZERO_SHOT}, the base "
            "model with "
            "its prompt"
        )
    else:
        yield (
            "the test loss is not clearly below the base model's: the difference is "
            f"{format_number(gain.value)} {format_interval(gain.low, gain.high)}"
        )


def _measure_gain(folder: Path, report: Report, values: dict[str, float]) -> Interval | None:
    """Return the base model's test loss minus the tuned model's, on the rows that both answered.

    The result is None if one of the two losses was not measured.
    """
    for trained in report.training_rows.values():
        key = trained.evaluator, trained.metric
        base, tuned = (report.measured.get((model, *key)) for model in (ZERO_SHOT, TUNED))
        if base is None or tuned is None or trained.higher_is_better:
            continue
        pairs = read_pairs(folder, base, tuned)
        gain = paired_difference(
            pairs.tuned_values, pairs.baseline_values, pairs.weights, groups=pairs.groups
        )
        values |= {"gain": gain.value, "gain_low": gain.low}
        return gain
    return None


def _find_falling(
    report: Report, course: LossHistory, values: dict[str, float], rise: _Rise | None
) -> Iterator[str]:
    """Yield a reason if the loss is still falling and memorization does not explain it.

    The training loss of a model that has learned its training rows better than new rows falls in
    any case.
    """
    fall = course.find_fall()
    if fall is None:
        return
    values["fall"] = fall.share
    if rise is not None and "auc" not in values:
        last = statistics.fmean(step.loss for step in course.last_steps)
        has_gap = rise.at_end.low > last
    else:
        has_gap = values.get("auc", 0.0) > GAP_AUC
    by_heart = has_gap and not fall.is_validation
    if fall.is_clear and not by_heart and not _is_learned(report, course, values):
        yield (
            f"the {_name_of(fall)} still fell by {format_share(fall.share)} in the last third of "
            "training (measured by summed learning rate)"
        )


def _name_of(fall: LossFall) -> str:
    return "validation loss" if fall.is_validation else "training loss"


def _find_unlearned(
    folder: Path, report: Report, course: LossHistory, values: dict[str, float]
) -> Iterator[str]:
    cost = find_label_cost(folder, report, course)
    if cost is None:
        return
    values |= {"answer_nats": cost.nats, "answer_bound": cost.bound}
    if cost.nats > cost.bound:
        yield (
            f"a training answer costs the tuned model {format_number(cost.nats)} nats; a model "
            f"as good as {cost.classifier} would need at most {format_number(cost.bound)}"
        )


def _find_unmoved(course: LossHistory, values: dict[str, float]) -> Iterator[str]:
    """Yield a reason if a preference loss has hardly moved from the loss of the untrained model."""
    losses = [step.loss for step in course.steps]
    if not course.is_of_pairs or losses[0] <= 0:
        return
    last = statistics.fmean(step.loss for step in course.last_steps)
    values["moved"] = moved = (losses[0] - last) / losses[0]
    if moved < MIN_MOVED:
        yield (
            "the loss has hardly moved from that of the untrained model: from "
            f"{format_number(losses[0])} to {format_number(last)}"
        )


def _describe_remedy(course: LossHistory, is_worse: bool, is_settled: bool) -> str:
    """Return what the user should change: the number of steps, the learning rate, or both.

    If the model got worse, its learning rate may be too high or too low. ``is_settled``: pilot runs
    have tried a higher learning rate, and it was not better.
    """
    steps = len(course.steps)
    if (is_worse or not steps) and not is_settled:
        which = "another" if is_worse else "a higher"
        return f"train for more epochs, or with {which} learning rate"
    advice = (
        f"train for more epochs (for example {RETRY_FACTOR * steps:,} steps instead of {steps:,})"
    )
    rate = max((step.learning_rate for step in course.steps), default=0.0)
    if is_settled or RETRY_FACTOR * rate > MAX_LEARNING_RATE:
        return advice
    rates = f"{format_rate(RETRY_FACTOR * rate)} instead of {format_rate(rate)}"
    return f"{advice}, or with a higher learning rate ({rates})"


# ----------------------------------------------------------------- neither


def _find_fitted(report: Report, course: LossHistory, values: dict[str, float]) -> Finding | None:
    """Return ``fitted`` or ``unclear``, or None if nothing was measured."""
    fall = course.find_fall()
    parts = list(_describe_values(values))
    if fall is not None and fall.has_levelled_off:
        return "fitted", "; ".join([*parts, f"the {_name_of(fall)} has leveled off"])
    if _is_learned(report, course, values):
        return "fitted", "; ".join([*parts, "hardly anything is left to learn"])
    if not parts and not (course.steps and course.is_of_data):
        return None
    missing = "no measurement shows"
    if fall is not None:
        missing = "the losses of the last steps vary too much to show"
    elif course.steps and course.is_of_data:
        missing = f"{format_count(len(course.steps), 'step')} are too few to show"
    return "unclear", "; ".join([*parts, f"{missing} whether more training would help"])


def _is_learned(report: Report, course: LossHistory, values: dict[str, float]) -> bool:
    """Return True if the training loss is near 0 or the first score is the best possible."""
    score = next(iter(report.tuned), None)
    if score is not None and score.higher_is_better and score.value == score.highest:
        return True
    last = [step.loss for step in course.last_steps] if course.is_of_data else []
    loss = values.get("train_loss", statistics.fmean(last) if last else None)
    return loss is not None and loss < MAX_LEARNED_LOSS


def _describe_values(values: dict[str, float]) -> Iterator[str]:
    if values.get("auc", 0.0) > GAP_AUC:
        yield _describe_gap(values)
    elif "auc" in values:
        share = format_share(values["auc"])
        yield f"the training row has the lower loss in {share} of train/test pairs"
    if "validation_rise" in values:
        yield "the validation loss did not clearly rise"
    if "gain" in values:
        yield _describe_gain(values)


def _describe_gain(values: dict[str, float]) -> str:
    if values["gain_low"] <= 0:
        return "the test loss is not clearly below the base model's"
    return f"the test loss is {format_number(values['gain'])} below the base model's"


def _row_values(folder: Path, event: Measured) -> list[float]:
    """Return the values of all rows with at least one token."""
    columns = [row[event.metric] for row in read_rows(folder / event.records, event.metric)]
    return [column["value"] for column in columns if column["weight"]]
