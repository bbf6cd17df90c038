"""Diagnose the fit of a training: memorised, overfitted, underfitted or fitted, in this order.

A training whose loss has risen is underfitted, whatever else is true.

=============  ===================================================================================
memorised      the tuned model's loss tells a training row from a held-out row: the probability that
               a training row has the lower one (AUC) is at least :data:`MEMORISED_AUC`
overfitted     training went on for too long: the dev loss after the last step is above the lowest
               one by more than its interval
underfitted    the loss on held-out rows is not below that of the base model by more than its
               interval; or in the last third of the steps, the training loss still falls by a
               tenth, and by 0.01 nats, or is a tenth above that of the first step, which is the
               untrained model's, and this is clear of its noise
fitted         none of these
=============  ===================================================================================

Held-out rows are used by their losses only, after everything has been chosen. The threshold of the
AUC was chosen on tiny runs, and measured on others: ``tests/benchmarks/memorised.py``.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tunesmith.errors import IntegrityError
from tunesmith.events import JSON, TUNED, Measured, StepFinished
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.statistics import Interval
from tunesmith.statistics.distributions import student_quantile
from tunesmith_evidence.formats import format_interval, format_number, format_share
from tunesmith_evidence.pairs import PairedRows, read_pairs
from tunesmith_evidence.statistics import paired_difference
from tunesmith_evidence.statistics.ranks import probability_below

FitState = Literal["memorised", "overfitted", "underfitted", "fitted"]

MEMORISED_AUC = 0.75
"""AUC from which on training rows count as memorised."""
MIN_ROWS = 10
"""Rows of each kind below which an AUC says nothing."""
TAIL = 1 / 3
"""Share of the steps, the last ones, in which the training loss should no longer fall."""
MIN_TAIL_STEPS = 6
FALL = 0.1
"""Fall of the training loss in these steps, as a share of it, that counts as falling."""
RISE = 0.1
"""Rise of the training loss over that of the first step, as a share of it, that counts as risen."""
CERTAIN = 0.999
"""One-sided level at which a training loss has risen: hardly any run meets such a first step."""
LEAST_FALL = 0.01
"""Fall of the training loss, in nats per token, below which there is nothing left to learn."""
VALIDATION_FILE = "validation.json"
"""File of a training with the dev loss of each row, at the best step and at the last one; those of
earlier versions do not have the rows' groups."""
BASE = "zero-shot"
"""The rival that is the untouched base model, with the run's system prompt."""


@dataclass(frozen=True)
class Fit:
    """The diagnosis, and what it follows from."""

    state: FitState
    sentence: str
    values: dict[str, float] = field(default_factory=dict)
    """``auc``; ``dev_rise`` with its ``dev_rise_low``; ``gain`` over the base model with its
    ``gain_low``; ``fall`` of the training loss: those that could be computed."""

    def to_json(self) -> JSON:
        """Return all fields by name."""
        return asdict(self)


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
    values: dict[str, float] = {}
    findings = [
        _find_risen(report, stage),
        _find_memorised(folder, report, values),
        _find_overfitted(folder / stage / VALIDATION_FILE, values),
        _find_underfitted(folder, report, stage, values),
    ]
    found = next((finding for finding in findings if finding is not None), None)
    if found is not None:
        state, sentence = found
        if state == "memorised" and values.get("gain_low", 0.0) > 0:
            sentence += "; it has learned the task too: " + _describe_gain(values)
        return Fit(state, sentence, values)
    return Fit("fitted", _describe_fitted(values), values) if values else None


def gets_nothing_right(report: Report) -> bool:
    """Return True if the tuned model gets no row right by one of its metrics.

    A training that fits its data so is no good news.
    """
    measured = (event for event in report.measured.values() if event.model == TUNED)
    return any(event.higher_is_better and event.value == 0 for event in measured)


Finding = tuple[FitState, str]


def _find_risen(report: Report, stage: str) -> Finding | None:
    """Compare the training losses of the last steps with that of the first."""
    steps = _stage_steps(report, stage)
    if any(step.metrics for step in steps):
        return None  # losses of a policy are not those of data
    losses = [step.loss for step in steps]
    risen = find_rise(losses)
    if risen is None:
        return None
    return "underfitted", (
        f"the training loss has risen, from {format_number(losses[0])} at the first step to "
        f"{format_number(risen)} in the last third; train with a lower learning rate, or with a "
        "longer warmup (schedule.warmup_ratio)"
    )


def _stage_steps(report: Report, stage: str) -> list[StepFinished]:
    return [step for (name, _), step in sorted(report.steps.items()) if name == stage]


def _find_memorised(folder: Path, report: Report, values: dict[str, float]) -> Finding | None:
    """Compare the losses of training rows with those of held-out rows, for each such metric."""
    for trained in report.training_rows.values():
        heldout = report.measured.get((TUNED, trained.evaluator, trained.metric))
        if heldout is None or trained.higher_is_better:
            continue
        losses = [_row_values(folder, event) for event in (trained, heldout)]
        if min(map(len, losses)) < MIN_ROWS:
            continue
        values["auc"] = auc = probability_below(*losses)
        if auc >= MEMORISED_AUC:
            return "memorised", (
                f"in {format_share(auc)} of all pairs of a training and a held-out row, the "
                f"training row has the lower {trained.metric} (a model that generalizes: about "
                "50 %); train for fewer epochs, with a lower learning rate, or with more rows"
            )
    return None


def _find_overfitted(path: Path, values: dict[str, float]) -> Finding | None:
    """Compare the dev loss after the last step with the lowest one, row by row."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        best, last = content["best"], content["last"]
        if best["step"] == last["step"]:
            return None
        rise = paired_difference(
            best["losses"], last["losses"], best["weights"], groups=last.get("groups")
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{path}: is damaged, {error!s:.80}") from None
    values |= {"dev_rise": rise.value, "dev_rise_low": rise.low}
    if rise.low <= 0:
        return None
    return "overfitted", (
        f"the dev loss at step {last['step']} is above that of step {best['step']} by "
        f"{format_number(rise.value)} {format_interval(rise.low, rise.high)}; with fewer epochs "
        "the result is the same, or better where the last step is the artifact"
    )


def _find_underfitted(
    folder: Path, report: Report, stage: str, values: dict[str, float]
) -> Finding | None:
    """Compare the tuned model with the base model, and the last steps with each other."""
    hint = "train for more epochs, or with a higher learning rate"
    for trained in report.training_rows.values():
        key = trained.evaluator, trained.metric
        base, tuned = (report.measured.get((model, *key)) for model in (BASE, TUNED))
        if base is None or tuned is None or trained.higher_is_better:
            continue
        gain = _gain(read_pairs(folder, base, tuned))
        values |= {"gain": gain.value, "gain_low": gain.low}
        if gain.high < 0:
            return "underfitted", (
                f"the {trained.metric} on held-out rows is {format_number(-gain.value)} "
                f"{format_interval(-gain.high, -gain.low)} above that of {BASE}, the base model "
                "with its prompt; train for more epochs, or with another learning rate"
            )
        if gain.low <= 0:
            return "underfitted", (
                f"the {trained.metric} on held-out rows is not clearly below that of the base "
                f"model: by {format_number(gain.value)} "
                f"{format_interval(gain.low, gain.high)}; {hint}"
            )
    fall = falling_share([step.loss for step in _stage_steps(report, stage)])
    if fall is not None:
        values["fall"] = fall
    if fall is None or fall < FALL:
        return None
    return "underfitted", (
        f"the training loss still fell by {format_share(fall)} in the last third of the steps; "
        f"{hint}"
    )


def _gain(pairs: PairedRows) -> Interval:
    """Return base minus tuned over the rows of the base, which may have been asked for fewer."""
    return paired_difference(
        pairs.tuned_values, pairs.rival_values, pairs.weights, groups=pairs.groups
    )


def _describe_fitted(values: dict[str, float]) -> str:
    parts = []
    if "auc" in values:
        share = format_share(values["auc"])
        parts.append(f"a training row has the lower loss in {share} of all pairs")
    if "dev_rise" in values:
        parts.append("the dev loss did not rise clearly")
    if "gain" in values:
        parts.append(_describe_gain(values))
    if "fall" in values:
        parts.append("the training loss has levelled off")
    return "; ".join(parts)


def _describe_gain(values: dict[str, float]) -> str:
    gain = format_number(values["gain"])
    return f"the loss on held-out rows is {gain} below that of the base model"


def _row_values(folder: Path, event: Measured) -> list[float]:
    """Return the values of the rows that have tokens."""
    columns = [row[event.metric] for row in read_rows(folder / event.records, event.metric)]
    return [column["value"] for column in columns if column["weight"]]


def falling_share(losses: Sequence[float]) -> float | None:
    """Return by which share of their mean the last losses fall; 0 if that may be chance.

    A fall below :data:`LEAST_FALL` is 0, too. A line is fitted to the last third of the losses
    (least squares); its slope counts if the 95 % interval is below 0. None: too few steps.
    """
    tail = _find_tail(losses)
    n = len(tail)
    if n < MIN_TAIL_STEPS:
        return None
    x_mean, mean = (n - 1) / 2, math.fsum(tail) / n
    spread = math.fsum((x - x_mean) ** 2 for x in range(n))
    slope = math.fsum((x - x_mean) * loss for x, loss in enumerate(tail)) / spread
    residuals = (loss - mean - slope * (x - x_mean) for x, loss in enumerate(tail))
    error = math.sqrt(math.fsum(r * r for r in residuals) / (n - 2) / spread)
    fall = -slope * (n - 1)
    is_falling = slope + student_quantile(0.975, n - 2) * error < 0 and fall >= LEAST_FALL
    return fall / mean if is_falling and mean > 0 else 0.0


def find_rise(losses: Sequence[float]) -> float | None:
    """Return the mean of the last losses if it is above the first loss by :data:`RISE`, or None.

    The first loss has to lie below all that such losses would include by chance (prediction
    interval of one more normal value, at :data:`CERTAIN`).
    """
    tail = _find_tail(losses)
    n = len(tail)
    if n < MIN_TAIL_STEPS or not math.isfinite(losses[0]):
        return None
    mean, deviation = statistics.fmean(tail), statistics.stdev(tail)
    bound = mean - student_quantile(CERTAIN, n - 1) * deviation * math.sqrt(1 + 1 / n)
    return mean if losses[0] < bound and mean >= (1 + RISE) * losses[0] else None


def _find_tail(losses: Sequence[float]) -> list[float]:
    return [loss for loss in losses[-round(TAIL * len(losses)) :] if math.isfinite(loss)]
