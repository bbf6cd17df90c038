"""The forgetting budget: the divergence from the previous model predicts what is forgotten.

Forgetting follows the KL divergence of the tuned model from the model before, measured on the new
task (Shenfeld et al. 2025, RL's Razor, section 4), or on earlier tasks. A score cannot lose more
than it is, so with the score s and a slope a, the predicted loss is::

    s (1 - exp(-a KL / s))        for a small divergence a KL, never more than s

If the score has no limit, as a loss in nats, the prediction is the line a KL. The slope is fitted
to finished runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tunesmith.events import FindingReported
from tunesmith.storage import write_atomic
from tunesmith_continual.chain import Task
from tunesmith_continual.options import RetentionOptions
from tunesmith_torch.training.additions import AdditionContext

FILE = "kl.jsonl"


class Budget:
    """Measures the divergence, and ends training with the last weights within the budget."""

    def __init__(
        self, options: RetentionOptions, context: AdditionContext, measure: Callable[[], float]
    ) -> None:
        self._options, self._context, self._measure = options, context, measure
        self._path = context.folder / FILE
        self._kept: dict[str, Tensor] = {}

    def check(self, step: int) -> Literal["continue", "finish"]:
        """Measure after a step; beyond the budget, restore the last weights within it."""
        budget, slope = self._options.budget, self._options.budget_slope
        divergence = self._measure()
        score = self._options.budget_score
        predicted = None if slope is None else predict_loss(divergence, slope, score)
        earlier = [line for line in read_divergences(self._path) if line["step"] < step]
        is_beyond = budget is not None and predicted is not None and predicted > budget
        if not is_beyond:
            self._write([*earlier, {"step": step, "kl": divergence, "predicted": predicted}])
            if budget is not None:
                self._kept = {n: p.detach().clone() for n, p in self._context.parameters.items()}
            return "continue"
        with torch.no_grad():
            for name, kept in self._kept.items():
                self._context.parameters[name].copy_(kept)
        last = earlier[-1]
        self._write([*earlier[:-1], {**last, "final": True}])
        text = (
            f"the predicted loss on earlier tasks is {predicted:.3f} after step {step}, above the "
            f"budget of {budget:g}; the model has the weights of step {last['step']}, whose "
            f"predicted loss is {last['predicted']:.3f}"
        )
        self._context.job.emit(FindingReported(level="info", source="retention", message=text))
        return "finish"

    def _write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in lines))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the last weights within the budget by parameter name, for a checkpoint."""
        return {f"kept.{name}": tensor for name, tensor in self._kept.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the last weights within the budget."""
        parameters = self._context.parameters
        self._kept = {
            name: state[f"kept.{name}"].to(parameter.device, copy=True)
            for name, parameter in parameters.items()
            if f"kept.{name}" in state
        }


def read_divergences(path: Path) -> list[dict[str, float]]:
    """Return the measurements of a run; empty if it has none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def find_divergence(task: Task) -> dict[str, float] | None:
    """Return the measurement of a run's final model, or the last one before its step.

    The final model is that of the last measurement if the budget ended training; otherwise that of
    the best step on validation rows, or of the last step if the best one was not kept.
    """
    validation = getattr(task.plan.technique.config, "validation", None)
    keeps_best = validation is not None and validation.keep_best
    best = [event.step for event in task.report.monitored_of("") if event.best and keeps_best]
    for path in sorted(task.path.glob(f"**/additions/retention/{FILE}")):
        found = read_divergences(path)
        if best and found and not found[-1].get("final"):
            found = [line for line in found if line["step"] <= best[-1]]
        if found:
            return found[-1]
    return None


def predict_loss(divergence: float, slope: float, score: float | None) -> float:
    """Return the predicted loss of score; ``score`` is the most that can be lost, if limited."""
    if score is None:
        return slope * divergence
    return -score * math.expm1(-slope * divergence / score) if score else 0.0


@dataclass(frozen=True)
class Point:
    """The divergence and the loss of score in a finished run, and the score before it."""

    divergence: float
    loss: float
    score: float | None = None


def fit_slope(points: Sequence[Point]) -> float | None:
    """Return the slope with the least squared error, to 0.1 %.

    None if no point has a divergence and a loss above 0.
    """
    informative = [point for point in points if point.divergence > 0]
    if not any(point.loss > 0 for point in informative):
        return None
    largest = max(point.divergence for point in informative)
    slopes = np.geomspace(1e-3, 1e4, 16_119) / largest  # neighbors differ by 0.1 %

    def error(slope: float) -> float:
        return math.fsum(
            (predict_loss(p.divergence, slope, p.score) - p.loss) ** 2 for p in informative
        )

    return float(min(slopes, key=error))
