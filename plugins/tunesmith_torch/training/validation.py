"""Evaluate the loss on validation rows during training, and keep the best checkpoint.

:mod:`tunesmith_torch.training.evaluation_steps` chooses the steps. At each of them:

1. Evaluate the loss and the objective's metrics on the validation rows.
2. Evaluate the loss on a sample of training rows, if the time budget allows it.
3. Emit both in a ``Monitored`` event.
4. If the validation loss is the lowest so far, save the checkpoint as the best.
5. At the last step, or when patience runs out, restore the best checkpoint.

Validation rows choose the checkpoint, so test rows must not take part. All decisions are functions
of the step, so a resumed run makes the same ones.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.contracts import Job
from tunesmith.errors import IntegrityError
from tunesmith.events import JSON, Event, FindingReported, Monitored
from tunesmith.records import Record
from tunesmith.statistics import Interval
from tunesmith.storage import write_atomic
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_estimate, format_number
from tunesmith_evidence.statistics import paired_difference
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.training import DEFAULT_BY, ValidationOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.training.evaluation_steps import EvaluationCosts, EvaluationSteps
from tunesmith_torch.training.monitor import MonitorDecision
from tunesmith_torch.training.row_losses import RowLosses, RowObjective, measure_row_losses
from tunesmith_torch.training.validation_score import ValidationScore, measure_on_rank_0

VALIDATION = "technique.validation"
"""``source`` of the findings about validation."""
VALIDATION_FILE = "validation.json"
"""File in a job's folder that stores each validation row's loss at the best and the last step."""
MAX_ROWS = 500
"""Maximum number of validation rows to evaluate; if there are more, a random sample is used."""
_STATE = ("best", "last", "last_step", "without_gain")
"""Keys that a checkpoint must have to resume validation."""


def sample_validation_and_train(job: Job[Any]) -> tuple[list[Record], list[Record]]:
    """Return the validation records to evaluate, and an equal number of training records.

    The seed of the job decides the samples.
    """
    validation = _sample(job.validation, MAX_ROWS, f"{job.seed}/validation/dev")
    return validation, _sample(job.train, len(validation), f"{job.seed}/validation/train")


def _sample(records: Sequence[Record], limit: int, seed: str) -> list[Record]:
    if len(records) <= limit:
        return list(records)
    rows = random.Random(seed).sample(range(len(records)), limit)
    return [records[row] for row in sorted(rows)]


@dataclass
class ValidationMonitor:
    """Evaluates the validation loss; chooses the best checkpoint by it or an evaluator's score.

    It is a :class:`tunesmith_torch.training.monitor.TrainingMonitor`.
    """

    job: Job[Any]
    adapted: AdaptedModel
    validation: RowObjective
    sample: RowObjective
    """A sample of training rows, as many as validation rows."""
    steps: EvaluationSteps
    options: ValidationOptions
    final_step: int
    """Number of the last planned step."""
    score: ValidationScore | None = None
    """The evaluator that chooses the best checkpoint; None: the validation loss does."""
    best: RowLosses | None = None
    """The best evaluation, not counting that before the first step."""
    best_score: float | None = None
    """The evaluator's score at the best evaluation; None if no evaluator is used."""
    last: RowLosses | None = None
    last_step: int = -1
    """Step of the last evaluation; -1 before the first evaluation."""
    without_gain: int = 0
    """Number of evaluations since the best one."""
    stopped_at: int | None = None
    """Step at which training ended with the best weights; None: the last weights were kept."""

    @classmethod
    def create(
        cls,
        job: Job[Any],
        adapted: AdaptedModel,
        order: BatchOrder,
        validation: RowObjective,
        sample: RowObjective,
        score: ValidationScore | None = None,
    ) -> ValidationMonitor:
        """Return a monitor; its steps follow ``validation.every`` or, if unset, predicted costs."""
        options: ValidationOptions = job.config.validation
        costs = EvaluationCosts.predict(
            order,
            validation_tokens=validation.counts(range(len(validation))).tokens,
            sample_tokens=sample.counts(range(len(sample))).tokens,
            sample_rows=len(sample),
            trainable_share=adapted.num_trainable_parameters / adapted.num_parameters,
            device=adapted.base.model.device.type,
        )
        steps = EvaluationSteps.choose(order, costs, options.every)
        return cls(job, adapted, validation, sample, steps, options, order.steps, score)

    def is_batch_finished(self) -> bool:
        """Return True: each batch is one update."""
        return True

    def evaluate(self, step: int) -> MonitorDecision:
        """Evaluate the validation loss if it is due, and decide how training goes on."""
        if step == self.last_step or step not in self.steps.steps:
            return "continue"
        self.last_step = step
        validation, metrics = self._measure(self.validation, step, "validation")
        if self.steps.with_sample:
            metrics |= self._measure(self.sample, step, "train")[1]
        score = self._measure_score() if step else None
        if score is not None:
            metrics["validation_score"] = score
        is_best = self._update_best(validation, score)
        event = Monitored(stage=self.job.stage, step=step, metrics=metrics, best=is_best)
        self.job.emit(event)
        return self._decide(step, is_best)

    def state_dict(self) -> JSON:
        """Return the evaluations that later evaluations are compared with."""
        return {
            "best": self.best.to_json() if self.best else None,
            "last": self.last.to_json() if self.last else None,
            "last_step": self.last_step,
            "without_gain": self.without_gain,
            **({} if self.best_score is None else {"best_score": self.best_score}),
        }

    def load_state_dict(self, state: JSON) -> None:
        """Restore the state of a checkpoint.

        If training had no validation so far, or different validation rows, validation starts over.

        Raises:
            IntegrityError: part of the state is missing.
        """
        if not state:
            return
        require_state(self.job, state, _STATE)
        if state["last"] and len(state["last"]["losses"]) != len(self.validation):
            return
        self.best = RowLosses(**state["best"]) if state["best"] else None
        self.last = RowLosses(**state["last"]) if state["last"] else None
        self.last_step, self.without_gain = state["last_step"], state["without_gain"]
        self.best_score = state.get("best_score")

    def count_steps(self, planned: int) -> int:
        """Return the planned steps, or fewer after early stopping."""
        return planned if self.stopped_at is None else self.stopped_at

    def results(self) -> Sequence[Event]:
        """Write the loss of each row, and report which checkpoint is the artifact."""
        best, last = self.best, self.last
        if best is None or last is None:
            return []
        if distributed.is_rank_0():
            content = {"best": best.to_json(), "last": last.to_json()}
            write_atomic(self.job.out / VALIDATION_FILE, json.dumps(content) + "\n")
        return [
            FindingReported(level="info", source=VALIDATION, message=self._describe(best, last))
        ]

    # ----------------------------------------------------------------- one evaluation

    def _measure(
        self, objective: RowObjective, step: int, part: str
    ) -> tuple[RowLosses, dict[str, float]]:
        budget = self.job.config.micro_batch_tokens
        losses, found = measure_row_losses(self.adapted, objective, step, budget)
        metrics = {"loss": losses.mean, **found}
        return losses, {f"{part}_{name}": x for name, x in metrics.items() if math.isfinite(x)}

    def _measure_score(self) -> float | None:
        """Return the mean score on validation rows; None if the loss decides."""
        if self.options.by == DEFAULT_BY:
            return None
        values = measure_on_rank_0(self.adapted, self.score)
        return statistics.fmean(values) if values else None

    def _update_best(self, validation: RowLosses, score: float | None) -> bool:
        is_finite = math.isfinite(validation.mean)
        self.last = validation if is_finite else self.last
        if validation.step == 0:
            return False
        is_best = is_finite and (
            self.best is None or _rank(score, validation) > _rank(self.best_score, self.best)
        )
        if is_best:
            self.best, self.best_score = validation, score
        self.without_gain = 0 if is_best else self.without_gain + 1
        return is_best

    def _decide(self, step: int, is_best: bool) -> MonitorDecision:
        if not self.options.keep_best or self.best is None:
            return "continue"
        if is_best:
            # The artifact is made from the weights in memory, so the last step needs no checkpoint.
            return "continue" if step == self.final_step else "save_best"
        patience = self.options.patience
        is_over = patience is not None and self.without_gain >= patience
        if step != self.final_step and not is_over:
            return "continue"
        if self.best.step not in self.job.checkpoints.steps():
            return self._replace_lost_best(step)
        self.stopped_at = step
        return "stop"

    def _replace_lost_best(self, step: int) -> MonitorDecision:
        """Report that the best checkpoint is lost, and keep the present weights instead."""
        text = f"step {step}: the best checkpoint is missing; using this step's weights instead"
        self.job.emit(FindingReported(level="warning", source=VALIDATION, message=text))
        self.best, self.best_score, self.without_gain = self.last, None, 0
        return "continue" if step == self.final_step else "save_best"

    def _describe(self, best: RowLosses, last: RowLosses) -> str:
        rows = format_count(len(best.losses), "row")
        loss = f"lowest validation loss, {format_number(best.mean)} on {rows}"
        if self.best_score is not None:
            sign = 1 if self.score is None or self.score.scorer.higher_is_better else -1
            value = format_number(sign * self.best_score)
            loss = f"best {self.options.by}, {value} on validation rows"
        if best.step == last.step:
            return f"kept step {last.step}, the last one: {loss}"
        rise = validation_loss_rise(best, last)
        subject = "" if self.best_score is None else "validation loss "
        change = format_estimate(rise.value, rise.low, rise.high)
        now = f"step {last.step}: {subject}higher by {change}"
        if self.stopped_at is not None:
            return f"kept step {best.step}: {loss}; {now}"
        return f"kept the last step; step {best.step}: {loss}; {now}"


def _rank(score: float | None, losses: RowLosses) -> tuple[float, float]:
    """Return the sort key of an evaluation, highest best: its score, then its negative loss."""
    return -math.inf if score is None else score, -losses.mean


def validation_loss_rise(best: RowLosses, last: RowLosses) -> Interval:
    """Return the difference of the validation losses, last minus best, with its interval.

    Rows of the same group count as one unit.
    """
    return paired_difference(best.losses, last.losses, best.weights, groups=last.groups)


def require_state(job: Job[Any], state: JSON, keys: Sequence[str]) -> None:
    """Check that a checkpoint has the state that a monitor needs to continue.

    Raises:
        IntegrityError: part of the state is missing.
    """
    missing = [name for name in keys if name not in state]
    if missing:
        raise IntegrityError(
            f"{job.checkpoints.folder}: training cannot resume from the newest checkpoint: it "
            f"lacks the monitor's {', '.join(missing)}",
            hint="train this stage again in a new run folder",
        )
