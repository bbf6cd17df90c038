"""Connect TRL's trainers to tunesmith's events, monitor and checkpoints with a callback."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from tunesmith.contracts import Job
from tunesmith.errors import TrainingError
from tunesmith.events import StepFinished
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.optim.schedule import BatchOrder, LearningRateSchedule
from tunesmith_torch.rlhf.monitor import PolicyMonitor
from tunesmith_torch.rlhf.policy_objective import LEADING_METRICS
from tunesmith_torch.runtime.memory import peak_bytes
from tunesmith_torch.training.checkpoint_writer import CheckpointWriter
from tunesmith_trl.rewards import TrlRewardFunction


@dataclass
class TrlCallback(TrainerCallback):  # type: ignore[misc]
    """Emits the events of steps, runs the monitor, saves checkpoints, and stops TRL's training."""

    job: Job[Any]
    order: BatchOrder
    schedule: LearningRateSchedule
    masters: MasterWeights
    reward_function: TrlRewardFunction
    monitor: PolicyMonitor
    checkpoints: CheckpointWriter
    steps_done: int
    """Number of steps done by earlier processes; TRL counts its updates from there."""
    logs: list[dict[str, float]] = field(default_factory=list)
    """TRL's logs of the updates in the current step."""
    started: float = 0.0
    grad_norm: float = 0.0
    """Gradient norm of the last update, before clipping."""
    rng_state: Tensor | None = None
    """State of torch's random generator before the first step, or None if not stored."""
    cuda_rng_states: list[Tensor] = field(default_factory=list)
    """State of each GPU's random generator before the first step."""

    def store_rng_state(self) -> None:
        """Store the random states, because creating a trainer and a data loader changes them."""
        self.rng_state = torch.get_rng_state()
        self.cuda_rng_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def learning_rate(self, update: int) -> float:
        """Return the learning rate of this trainer's update, counted from 0."""
        return self.schedule.learning_rate_at(min(self._step(update), self.order.steps - 1))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0 and self.rng_state is not None:
            torch.set_rng_state(self.rng_state)
            if self.cuda_rng_states:
                torch.cuda.set_rng_state_all(self.cuda_rng_states)
        if not self.logs:
            self.started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Clip gradients like the toolkit, because TRL turns an infinite gradient into zero."""
        max_grad_norm = self.reward_function.options.optimizer.max_grad_norm
        self.grad_norm = float(self.masters.clip_grad_norm(max_grad_norm))
        if not math.isfinite(self.grad_norm):
            worst = ", ".join(name for name, _ in self.masters.largest_gradients(3))
            raise TrainingError(
                f"step {self._step(state.global_step) + 1}: the gradient is not finite, first in "
                f"{worst}; nothing was updated",
                hint='try a lower learning rate, or set technique.precision = "fp32"',
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:  # TRL's last log summarizes the training.
            return
        self.logs.append(dict(logs))
        if len(self.logs) < self.reward_function.options.loss.num_iterations:
            return
        step = self._step(state.global_step)
        metrics = self._metrics()
        self.monitor.record_rollout(self.reward_function.counts, metrics)
        event = self._step_finished_event(step, metrics)
        self.logs.clear()
        if self.checkpoints.after_step(event):
            control.should_training_stop = True

    def _step(self, updates: int) -> int:
        return self.steps_done + updates // self.reward_function.options.loss.num_iterations

    def _step_finished_event(self, step: int, metrics: dict[str, float]) -> StepFinished:
        options, counts = self.reward_function.options, self.reward_function.counts
        device = self.reward_function.objective.adapted.base.model.device
        return StepFinished(
            stage=self.job.stage,
            step=step,
            steps=self.order.steps,
            loss=self.logs[-1]["loss"],
            learning_rate=self.schedule.learning_rate_at(step - 1),
            gradient_norm=self.grad_norm,
            rows=min(options.batch_size, len(self.reward_function.prompt_tokenizer.prompts)),
            tokens=counts.tokens,
            trained_tokens=counts.trained_tokens,
            seconds=time.perf_counter() - self.started,
            memory_bytes=peak_bytes(device),
            epoch=step / self.order.steps_per_epoch,
            metrics=metrics,
        )

    def _metrics(self) -> dict[str, float]:
        """Return TRL's metrics under tunesmith's names.

        The metrics of a rollout are in the log of its first update. TRL reports KL per token, and
        this method converts it to KL per completion.
        """
        logs, rewards = self.logs[0], self.reward_function
        clip_fractions = [update["clip_ratio/region_mean"] for update in self.logs]
        completion_length = logs["completions/mean_length"]
        leading = {"reward": rewards.mean_reward, "completion_length": completion_length}
        if "kl" in logs:
            leading["kl"] = logs["kl"] * completion_length
        return {
            **{name: leading[name] for name in LEADING_METRICS if name in leading},
            "entropy": logs["entropy"],
            "reward_spread": rewards.reward_spread,
            "clip_fraction": math.fsum(clip_fractions) / len(clip_fractions),
            "truncated": logs["completions/clipped_ratio"],
            "kl_coef": rewards.options.loss.kl_coef,
        }
