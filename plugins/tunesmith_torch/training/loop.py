"""The training loop that every technique shares.

:func:`run_training_loop` takes a model whose trainable weights are already chosen
(:mod:`tunesmith_torch.models.adapters`) and an :class:`Objective`, which holds the data and the
loss. Each pass through the loop is one optimizer step::

    BatchOrder                rows 17, 4, 92, ... of a shuffled epoch; each rank takes its share
      |
      v
    objective.prepare         once per batch: a rollout, rewards, reference scores, or nothing
      |
      v
    objective.micro_batches   [micro-batch 0]    [micro-batch 1]    ...    at most `budget` tokens
      |                              |                  |
      |  forward               loss 0 / Z         loss 1 / Z        ...    Z: divisor of the batch
      |  backward                    |                  |
      |                              +--------+---------+-----------...
      |                                       |
      |                                       v
      |                       gradient of this rank, added up in fp32; terms of additions join it
      |                                       |
      |                                       v
      |                       sum over all ranks, clip the norm
      |                                       |
      |                                       v
      |                       AdamW step on the fp32 master weights, copied back to the model
      |                                       |
      |                                       v
      +--- again: no ---      monitor.is_batch_finished()?     PPO updates several times per batch
                                              |
                                              | yes
                                              v
                              StepFinished event, evaluation, checkpoint if due

The loss of a micro-batch is a *sum* (over tokens, or over pairs). Z is the divisor of the
*complete* batch over all ranks, such as its number of tokens in the loss. With m running over all
micro-batches of all ranks, the loss of the batch is a mean whose gradient is a plain sum::

    L = sum over m of (loss m / Z)          dL/dW = sum over m of d(loss m / Z)/dW

Each backward pass adds one term of that sum. The result does not depend on the size of the
micro-batches or on the number of processes, up to rounding. This is also why running out of memory
is harmless: the gradient is computed again in smaller micro-batches. A mean of micro-batch means
would weight tokens in small micro-batches more.

A step reads nothing but its number and the training state. Rows and learning rate are functions of
the step's number (:mod:`tunesmith_torch.optim.schedule`). Everything else is in the checkpoint
(:mod:`tunesmith_torch.training.training_state`), so a resumed run continues bit by bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from tunesmith.contracts import Job
from tunesmith.errors import TrainingError
from tunesmith.events import StepFinished
from tunesmith.storage import write_atomic
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.optim import adamw
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.optim.schedule import BatchOrder, LearningRateSchedule
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.malloc import keep_freed_memory
from tunesmith_torch.runtime.memory import peak_bytes
from tunesmith_torch.runtime.seed import seed_all
from tunesmith_torch.training.additions import (
    NO_ADDITIONS,
    Additions,
    BuiltAddition,
    Item,
    micro_batches,
)
from tunesmith_torch.training.checkpoint_writer import CheckpointWriter
from tunesmith_torch.training.first_batch import emit_first_batch
from tunesmith_torch.training.micro_batch_budget import MicroBatchBudget
from tunesmith_torch.training.monitor import NO_MONITOR, TrainingMonitor
from tunesmith_torch.training.parallelism import Parallelism, parallelize

__all__ = ["BatchCounts", "Objective", "RunWithBudget", "run_training_loop"]

T = TypeVar("T")


@dataclass(frozen=True)
class BatchCounts:
    """Token counts of a batch, and the divisor of its summed loss."""

    tokens: int
    """All tokens, without padding."""
    trained_tokens: int
    """Number of tokens that contribute to the loss."""
    loss_divisor: float
    """Divisor of the summed loss: total loss weight of the tokens, or number of pairs."""


class RunWithBudget(Protocol):
    """A function that runs a computation with a token budget, smaller if memory runs out."""

    def __call__(self, compute: Callable[[int], T], /) -> T: ...


class Objective(Protocol):
    """Protocol of an objective: a dataset, and a loss summed over micro-batches.

    With several ranks, :meth:`prepare` gets the rows of this rank only (possibly none).
    :meth:`counts` gets the rows of the complete batch, and :meth:`metrics` covers all ranks.
    """

    def __len__(self) -> int:
        """Return the number of training rows."""
        ...

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the total counts of these rows; a row is an index below ``len(self)``."""
        ...

    def prepare(self, rows: Sequence[int], run: RunWithBudget) -> Any:
        """Do the work that a batch needs only once, such as sampling or scoring with other models.

        The result is kept for all updates of the batch, even if memory runs out in one of them.
        Pass forward computations to ``run``, which repeats them in smaller micro-batches if memory
        runs out.
        """
        ...

    def start_update(self) -> None:
        """Reset the metrics that :meth:`loss` records; called before each attempt at an update."""
        ...

    def micro_batches(self, prepared: Any, budget: int) -> Sequence[Any]:
        """Split a prepared batch into micro-batches that compute at most ``budget`` tokens each.

        This must be a pure function: the loop may call it again for the same batch with a smaller
        budget.
        """
        ...

    def loss(self, micro_batch: Any) -> Tensor:
        """Return the loss summed over the micro-batch: a scalar, ready for backward.

        A log-likelihood is in nats. The loop divides by the batch's ``loss_divisor``.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Return metrics of the last batch over all ranks, without the loss; may be empty."""
        ...


class RunLoop(Protocol):
    """Protocol of a training loop, such as :func:`run_training_loop` or a replacement for it."""

    def __call__(
        self,
        job: Job[Any],
        adapted: AdaptedModel,
        objective: Objective,
        *,
        seed: int,
        monitor: TrainingMonitor,
        additions: Additions,
    ) -> None: ...


def run_training_loop(
    job: Job[Any],
    adapted: AdaptedModel,
    objective: Objective,
    *,
    seed: int,
    monitor: TrainingMonitor = NO_MONITOR,
    additions: Additions = NO_ADDITIONS,
) -> None:
    """Train to the last step, starting from the newest checkpoint or the initial weights.

    Raises:
        TrainingError: a loss or gradient is not finite, or memory ran out even after halving the
            micro-batches :data:`MAX_HALVINGS` times.
        RunStopped: ``job.emit`` raised it. A checkpoint is saved before it is passed on.
    """
    keep_freed_memory()
    options: TrainingOptions = job.config
    adamw.check_available(options.optimizer.name, adapted.base.model.device)
    order = BatchOrder.from_options(len(objective), options, seed)
    schedule = LearningRateSchedule.from_options(options, order.steps)
    with (
        parallelize(adapted, objective.loss, options.parallel) as parallelism,
        # The optimizer is built inside the block, from the parameters as this rank holds them.
        closing(MasterWeights(adapted.named_trainable_parameters, options)) as masters,
    ):
        checkpoints = CheckpointWriter(job, masters, options.checkpoints.every, monitor, additions)
        budget = MicroBatchBudget(job, adapted, options.micro_batch_tokens)
        accumulator = _GradientAccumulator(
            job, adapted, objective, parallelism, masters, budget, additions
        )
        adapted.model.train()
        seed_all(seed)  # a checkpoint replaces these generator states with its own
        steps_done = checkpoints.resume(order.steps)
        # Evaluates the untrained model, or after a resume the step whose evaluation was missed: a
        # stopped run saves its step before evaluating it.
        if checkpoints.evaluate(steps_done):
            return
        for step, rows in order.batches(steps_done):
            started = time.perf_counter()
            # Checkpoints hold the generators of rank 0 only; the others are seeded in each step.
            distributed.seed_worker_rank(seed, step)
            learning_rate = schedule.learning_rate_at(step)
            batch = accumulator.prepare(step, rows)
            if step == 0:
                emit_first_batch(job, adapted, objective, batch.prepared, budget.tokens)
            transform = additions.transform(step, learning_rate)
            gradient = accumulator.compute_gradient(batch, learning_rate)
            masters.step(learning_rate, transform)
            # One update per batch, except where a monitor asks for more: PPO reuses its rollouts.
            while not monitor.is_batch_finished():
                gradient = accumulator.compute_gradient(batch, learning_rate)
                masters.step(learning_rate, transform)
            counts = objective.counts(rows)
            event = StepFinished(
                stage=job.stage,
                step=step + 1,
                steps=order.steps,
                loss=gradient.loss,
                learning_rate=learning_rate,
                gradient_norm=gradient.norm,
                rows=len(rows),
                tokens=counts.tokens,
                trained_tokens=counts.trained_tokens,
                seconds=time.perf_counter() - started,
                memory_bytes=peak_bytes(adapted.base.model.device),
                epoch=(step + 1) / order.steps_per_epoch,
                metrics={**objective.metrics(), **gradient.terms},
            )
            if checkpoints.after_step(event):
                return


@dataclass(frozen=True)
class _Batch:
    """The rows of one optimizer step, over all ranks, and what the objective prepared for them."""

    step: int
    rows: Sequence[int]
    prepared: Any
    drawn: Sequence[tuple[BuiltAddition, Sequence[Item]]]
    """This rank's items for each loss term that an addition contributes."""


@dataclass(frozen=True)
class _Gradient:
    """The loss and gradient norm of the gradient that is now in the master weights."""

    losses: Sequence[float]
    """``loss m / Z`` of every micro-batch on every rank; their sum is the batch's mean loss."""
    term_shares: dict[str, list[float]]
    """The values of the additions' terms in the same form, by name of the term."""
    norm: float
    """Gradient norm before clipping."""

    @property
    def loss(self) -> float:
        return math.fsum(self.losses)

    @property
    def terms(self) -> dict[str, float]:
        return {name: math.fsum(shares) for name, shares in self.term_shares.items()}

    @property
    def is_finite(self) -> bool:
        return all(map(math.isfinite, (self.loss, *self.terms.values(), self.norm)))


@dataclass
class _GradientAccumulator:
    """Computes the gradient of a batch in micro-batches, which shrink if memory runs out."""

    job: Job[Any]
    adapted: AdaptedModel
    objective: Objective
    parallelism: Parallelism
    masters: MasterWeights
    budget: MicroBatchBudget
    additions: Additions

    def prepare(self, step: int, rows: Sequence[int]) -> _Batch:
        """Have the objective prepare this rank's rows; draw the items of the additions' terms."""
        self.budget.step = step
        own = rows
        if distributed.world_size() > 1:
            # Every rank computes the same division of the batch, so no exchange is needed.
            sizes = [self.objective.counts([row]).tokens for row in rows]
            own = [rows[i] for i in distributed.list_rank_items(sizes)]
        prepared = self.objective.prepare(own, self.budget.run)
        return _Batch(step, rows, prepared, self.additions.draw(step))

    def compute_gradient(self, batch: _Batch, learning_rate: float) -> _Gradient:
        """Compute the gradient of the mean loss and all terms, and clip it, in the master weights.

        Raises:
            TrainingError: a loss, a term or the gradient is not finite. No weights were updated.
        """
        # Running out of memory ends the `with` block without an exception, and the next attempt
        # starts over with a smaller budget.
        for attempt in self.budget.attempts():
            with attempt:
                shares = self._accumulate(batch, attempt.tokens)
        # Only now, after all ranks have succeeded: a repeated attempt must not be summed twice.
        distributed.all_reduce_gradients(self.masters.masters)
        options: TrainingOptions = self.job.config
        with self.parallelism.collectives():
            norm = self.masters.clip_grad_norm(options.optimizer.max_grad_norm)
        # All numbers of the step leave the GPU in one transfer, because each transfer waits for it.
        values = torch.stack([*(share for _, share in shares), norm.detach().float()]).tolist()
        own_shares = [(name, value) for (name, _), value in zip(shares, values[:-1], strict=True)]
        sums: dict[str, list[float]] = {"": []}
        for name, value in chain(*distributed.all_gather_object(own_shares)):
            sums.setdefault(name, []).append(value)
        gradient = _Gradient(sums.pop(""), sums, values[-1])
        if not gradient.is_finite:
            raise self._write_diagnosis(batch, gradient, learning_rate)
        return gradient

    def _accumulate(self, batch: _Batch, budget: int) -> list[tuple[str, Tensor]]:
        """Run backward through this rank's micro-batches; return their parts of the batch loss.

        Each part comes with the name of an addition's term, or "" for the objective.
        """
        self.masters.zero_grad()  # an attempt that ran out of memory leaves part of a gradient
        self.objective.start_update()
        # Z counts the complete batch, not this rank's rows: the sum over ranks is then the mean.
        divisor = self.objective.counts(batch.rows).loss_divisor
        # If no token of the batch contributes to the loss, no rank computes the objective's
        # gradient.
        parts = self.objective.micro_batches(batch.prepared, budget) if divisor else ()
        shares = []
        with self.parallelism.collectives():
            for part in self.parallelism.align(parts):
                with self.adapted.autocast():
                    loss = self.parallelism.loss(part) / divisor
                # Adds this micro-batch to the gradient and frees its activations, so peak memory
                # is that of the largest micro-batch.
                loss.backward()  # type: ignore[no-untyped-call]
                shares.append(("", loss.detach().float()))
            for added, items in micro_batches(batch.drawn, budget):
                # Not divided by Z, because the shares of a term already sum to the whole term.
                with self.adapted.autocast():
                    loss = added.term(items)
                loss.backward()  # type: ignore[no-untyped-call]
                shares.append((added.term_name, loss.detach().float()))
        return shares

    def _write_diagnosis(
        self, batch: _Batch, gradient: _Gradient, learning_rate: float
    ) -> TrainingError:
        """Write ``postmortem.json`` about a non-finite step; return the error to raise."""
        newest = self.job.checkpoints.newest()
        last_good = newest.path.name if newest else None
        diagnosis = {
            "step": batch.step + 1,
            "learning_rate": learning_rate,
            "losses": [repr(loss) for loss in gradient.losses],
            "terms": {name: repr(value) for name, value in gradient.terms.items()},
            "gradient_norm": repr(gradient.norm),
            "rows": [self.job.train[row].source for row in batch.rows if row < len(self.job.train)],
            "largest_gradients": [(n, repr(v)) for n, v in self.masters.largest_gradients()],
            "last_good_checkpoint": last_good,
        }
        path = self.job.out / "postmortem.json"
        if distributed.is_rank_0():
            write_atomic(path, json.dumps(diagnosis, indent=2) + "\n")
        values = {"loss": gradient.loss, **gradient.terms}
        what = next((name for name, x in values.items() if not math.isfinite(x)), "gradient")
        return TrainingError(
            f"step {batch.step + 1}: the {what} is not finite (loss {gradient.loss}, gradient "
            f"norm {gradient.norm}); no weights were updated; last good checkpoint: "
            f"{last_good or 'none'}",
            hint=f"{path.name} lists the rows; try a lower learning rate, or set "
            'technique.precision = "fp32"',
        )
