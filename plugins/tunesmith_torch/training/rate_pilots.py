"""Choose ``learning_rate = "auto"``: train a few steps with each of three rates, and compare.

The pilots climb from the technique's default rate d::

    d, then 3 d     3 d is better:    10 d
                    otherwise:        d / 3

A pilot is a short training: same rows, same order, and a complete schedule over its own steps. Its
length is a share of the training's steps, hence of its tokens, and never a time, so each machine
makes the same choice. Afterwards the initial weights are restored bit by bit: the training gives
the same bits as one with the chosen rate in its run file.

The run's first evaluator decides on validation rows if it can measure them at a bounded cost. Rates
within one standard error of the best one (paired over rows; Breiman et al. 1984, section 3.4.3, for
trees) count as tied, and the lowest validation loss decides between them.

Each result is stored in :data:`RATE_FILE`. A resumed run reads it, and continues an interrupted
pilot from that pilot's own checkpoints.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tunesmith.contracts import Job, Progress
from tunesmith.errors import TrainingError
from tunesmith.events import JSON, Event, FindingReported, StepFinished
from tunesmith.phases import run_phase
from tunesmith.storage import Checkpoints, write_atomic
from tunesmith_evidence.number_text import format_rate, format_share
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.pilot_steps import MIN_TRAINING_STEPS, PILOTS, count_pilot_steps
from tunesmith_torch.options.training import AUTO, DEFAULT_BY, SupervisedOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.training.loop import Objective, run_training_loop
from tunesmith_torch.training.monitor import TrainingMonitor
from tunesmith_torch.training.row_losses import RowObjective, measure_row_losses
from tunesmith_torch.training.stored_tensors import StoredTensors, save_local_tensors
from tunesmith_torch.training.validation import ValidationMonitor, sample_validation_and_train
from tunesmith_torch.training.validation_score import ValidationScore, measure_on_rank_0
from tunesmith_torch.untrusted.foreign_code import read_json_object

__all__ = ["RatePilots"]

RATE_FILE = "learning_rate.json"
"""File in a job's folder that stores the results of the pilots."""
PILOT_FOLDER = "pilots"
"""Folder in a job's folder for the checkpoints of a pilot; deleted after the last pilot."""
Measure = Callable[[float], "Pilot"]
FACTORS = (1.0, 3.0, 10.0, 1 / 3)
"""The rates that may be tried, as factors of the default."""
MIN_ROWS = 16
"""Minimum number of validation rows for pilots."""
SOURCE = "technique.learning_rate"


@dataclass(frozen=True)
class Pilot:
    """The result of training a few steps with one learning rate."""

    rate: float
    """Peak learning rate."""
    loss: float
    """Validation loss after the last step; infinite if the training diverged."""
    values: Sequence[float] | None = None
    """The evaluator's value for each validation row; None if no evaluator is used."""

    def is_clearly_below(self, best: Pilot) -> bool:
        """Return True if the score is more than a standard error below the score of ``best``."""
        if self.values is None or best.values is None:
            return self.values is not best.values
        differences = [b - a for a, b in zip(self.values, best.values, strict=True)]
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        return statistics.fmean(differences) > error * (1 + 1e-9)  # one row alone is a tie


def choose(pilots: Sequence[Pilot]) -> Pilot:
    """Return the pilot with the best score; of those tied with it, the one with the lowest loss."""
    best = max(pilots, key=lambda pilot: statistics.fmean(pilot.values or [-math.inf]))
    return min((p for p in pilots if not p.is_clearly_below(best)), key=lambda pilot: pilot.loss)


@dataclass(frozen=True)
class RatePilots:
    """The pilot runs that choose the learning rate of a training."""

    job: Job[Any]
    adapted: AdaptedModel
    objective: Objective
    order: BatchOrder
    template: Template

    def resolve(self, monitor: TrainingMonitor) -> tuple[Job[Any], JSON]:
        """Return the job with a number as its learning rate, and facts for the first event.

        ``monitor`` has the validation rows, if there are any.
        """
        options: SupervisedOptions = self.job.config
        if options.learning_rate != AUTO:
            return self.job, {}
        validation = monitor.validation if isinstance(monitor, ValidationMonitor) else ()
        default, obstacle = options.DEFAULT_RATE, self._find_obstacle(len(validation))
        if obstacle or not isinstance(monitor, ValidationMonitor):
            self._report(f"{format_rate(default)}, the default: {obstacle}")
            return self._job_with(default), {}
        evaluator = next(iter(self.job.scorers), DEFAULT_BY)
        records, _ = sample_validation_and_train(self.job)
        score = ValidationScore.create(self.job, evaluator, records, self.template, self.adapted)
        rates = [float(f"{default * factor:.0e}") for factor in FACTORS]
        pilots = self._run_all(rates, partial(self._measure, monitor.validation, score))
        chosen = choose(pilots)
        is_largest = chosen.rate == max(pilot.rate for pilot in pilots)
        by = evaluator if chosen.values is not None else DEFAULT_BY
        rows = len(chosen.values if chosen.values is not None else validation)
        self._report(self._describe(chosen, rows, is_largest))
        facts = {
            "rate": chosen.rate,
            "is_largest": is_largest,
            "by": by,
            "steps": self._steps,
            "trained_tokens": PILOTS * self._count_trained_tokens(),
            "pilots": [_to_json(pilot) for pilot in pilots],
        }
        return self._job_with(chosen.rate), {"rate_pilots": facts}

    @property
    def _steps(self) -> int:
        return count_pilot_steps(self.order.steps)

    def _job_with(self, rate: float, **changes: Any) -> Job[Any]:
        config = self.job.config.model_copy(update={"learning_rate": rate, **changes})
        return replace(self.job, config=config)

    def _find_obstacle(self, rows: int) -> str:
        """Return the reason why no pilots run, or an empty text if they run."""
        if self.job.config.parallel == "sharded" and distributed.world_size() > 1:
            return "sharded weights cannot be restored after a pilot run"
        if rows < MIN_ROWS:
            return f"choosing a rate takes {MIN_ROWS} validation rows, got {rows}"
        if self.order.steps < MIN_TRAINING_STEPS:
            return (
                f"choosing a rate takes {MIN_TRAINING_STEPS} training steps, got {self.order.steps}"
            )
        return ""

    def _report(self, text: str) -> None:
        self.job.emit(FindingReported(level="info", source=SOURCE, message=text))

    def _describe(self, chosen: Pilot, rows: int, is_largest: bool) -> str:
        share = format_share(PILOTS * self._steps / self.order.steps)
        text = (
            f"{format_rate(chosen.rate)}, chosen from {PILOTS} on {rows} validation rows "
            f"({share} of the training tokens)"
        )
        if is_largest:
            text += (
                "; this is the largest rate tried, so a higher rate may be better: try "
                f"{SOURCE} = {format_rate(3 * chosen.rate)}"
            )
        return text

    def _count_trained_tokens(self) -> int:
        """Return the number of tokens with a loss in one pilot."""
        order = replace(self.order, max_steps=self._steps)
        return sum(self.objective.counts(rows).trained_tokens for _, rows in order.batches())

    # ----------------------------------------------------------------- the runs

    def _run_all(self, rates: Sequence[float], measure: Measure) -> list[Pilot]:
        """Return the results of all pilots, after running those whose result is not stored yet."""
        folder = self.job.out / PILOT_FOLDER
        initial = folder / "initial.safetensors"
        done = distributed.broadcast_from_rank_0(lambda: _read(self.job.out / RATE_FILE))
        pilots = [Pilot(**result) for result in done]
        if len(pilots) == PILOTS:
            return pilots
        if distributed.is_rank_0():
            folder.mkdir(exist_ok=True)
            save_local_tensors(initial, self._weights())
        total = PILOTS * self._steps
        with run_phase(self.job.emit, "trying learning rates", total, "steps") as progress:
            while len(pilots) < PILOTS:
                rate = rates[len(pilots)]
                if len(pilots) == 2 and choose(pilots).rate == rates[0]:
                    rate = rates[3]
                progress(len(pilots) * self._steps)
                has_trained = self._train(rate, folder / f"{rate:g}", progress, len(pilots))
                pilots.append(measure(rate) if has_trained else Pilot(rate, math.inf))
                self._restore(initial)
                if distributed.is_rank_0():
                    results = [asdict(pilot) for pilot in pilots]
                    write_atomic(self.job.out / RATE_FILE, json.dumps({"pilots": results}) + "\n")
                    shutil.rmtree(folder / f"{rate:g}", ignore_errors=True)
        if distributed.is_rank_0():
            shutil.rmtree(folder, ignore_errors=True)
        return pilots

    def _train(self, rate: float, folder: Path, progress: Progress, before: int) -> bool:
        """Train with a rate; return False if it diverges."""

        def advance(event: Event) -> None:
            if isinstance(event, StepFinished):  # raises RunStopped if the run must end
                progress(before * self._steps + event.step)

        folder.mkdir(parents=True, exist_ok=True)
        job = replace(
            self._job_with(rate, max_steps=self._steps),
            out=folder,
            checkpoints=Checkpoints(folder / "checkpoints"),
            emit=advance,
        )
        try:
            run_training_loop(job, self.adapted, self.objective, seed=job.seed)
        except TrainingError:  # the loss is not finite: this rate is too high
            return False
        return True

    def _measure(
        self, validation: RowObjective, score: ValidationScore | None, rate: float
    ) -> Pilot:
        """Measure the validation rows after a pilot."""
        budget = self.job.config.micro_batch_tokens
        losses, _ = measure_row_losses(self.adapted, validation, self._steps, budget)
        loss = losses.mean if math.isfinite(losses.mean) else math.inf
        return Pilot(rate, loss, measure_on_rank_0(self.adapted, score))

    def _weights(self) -> Mapping[str, torch.Tensor]:
        return {n: p.detach() for n, p in self.adapted.named_trainable_parameters}

    def _restore(self, initial: Path) -> None:
        """Set the weights back to those before the first pilot."""
        weights = self._weights()
        with StoredTensors([initial], {}) as stored, torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(stored[name])


def _read(path: Path) -> list[JSON]:
    return list(read_json_object(path)["pilots"]) if path.is_file() else []


def _to_json(pilot: Pilot) -> JSON:
    """Return the result for reports: the mean instead of each row's value."""
    score = None if pilot.values is None else statistics.fmean(pilot.values)
    loss = pilot.loss if math.isfinite(pilot.loss) else None
    return {"rate": pilot.rate, "validation_loss": loss, "score": score}
