"""The training loop that every technique shares.

:func:`run_training_loop` is given a model whose trainable weights are already chosen
(:mod:`tunesmith_torch.models.adapters`) and an :class:`Objective`, which knows the data and the
loss. One pass through the loop is one optimizer step::

    rows of the batch            BatchOrder: a new random order for each epoch
      -> prepared batch          objective.prepare(rows, run): once; a rollout, reference scores
      -> FirstBatch event        of the first step: the tokens of the batch, for reports
      -> micro-batches           objective.micro_batches(prepared, budget): at most `budget` tokens
      -> loss / loss_divisor     objective.loss(micro_batch), then backward; gradients add up
      -> terms of additions      added.term(items), then backward
      -> sum over ranks, clip, AdamW step on the fp32 master weights
      -> additions.transform     may change the update
      -> one more update?        monitor.is_batch_finished(): PPO reuses a rollout
      -> StepFinished event, monitor.evaluate(step), checkpoint

The loss of a micro-batch is a *sum* (over tokens, or over pairs). It is divided by the count of the
*complete* batch, over all ranks. The gradient is therefore that of the batch's mean loss, for any
size of the micro-batches and any number of processes
(:mod:`tunesmith_torch.runtime.distributed`). A mean of micro-batch means would weight tokens in
small micro-batches more.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
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
    Added,
    Additions,
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
    """Counts of a batch: all tokens, tokens with a loss, and the divisor of the summed loss."""

    tokens: int
    """All tokens, without padding."""
    trained_tokens: int
    """Those of them that contribute to the loss."""
    loss_divisor: float
    """Divisor of the summed loss: the weights of the trained tokens, or the number of pairs."""


class RunWithBudget(Protocol):
    """Calls a computation with a token budget, again with a smaller one if memory runs out."""

    def __call__(self, compute: Callable[[int], T], /) -> T: ...


class Objective(Protocol):
    """A dataset and a loss over it, summed over micro-batches.

    With several ranks, :meth:`prepare` is called with the rows of the own rank only (possibly
    none), :meth:`counts` with the rows of the complete batch; :meth:`metrics` covers all ranks.
    """

    def __len__(self) -> int:
        """Return the number of training rows."""
        ...

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the counts of these rows together; a row is an index below ``len(self)``."""
        ...

    def prepare(self, rows: Sequence[int], run: RunWithBudget) -> Any:
        """Do once for each batch what needs sampling, rewards or another model.

        The result is kept for all updates of the batch, also if memory runs out in one of them.
        Forward passes of its own go through ``run``, so that they too get smaller micro-batches.
        """
        ...

    def start_update(self) -> None:
        """Reset the metrics that :meth:`loss` records; called before each attempt at an update."""
        ...

    def micro_batches(self, prepared: Any, budget: int) -> Sequence[Any]:
        """Lay a prepared batch out so that each micro-batch computes at most ``budget`` tokens.

        A pure function: it may be called several times for one batch, with smaller budgets.
        """
        ...

    def loss(self, micro_batch: Any) -> Tensor:
        """Return the loss summed over the micro-batch: a scalar, ready for backward.

        In nats, if it is a log-likelihood. The loop divides by the batch's ``loss_divisor``.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Return metrics of the last batch over all ranks, besides the loss; may be empty."""
        ...


class RunLoop(Protocol):
    """Trains a prepared model to the last step: the training loop, or one with its promises."""

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
    """Train from the newest checkpoint, or from the initial weights, to the last step.

    Raises:
        TrainingError: a loss or gradient is not finite, or memory ran out even with micro-batches
            that were halved :data:`MAX_HALVINGS` times.
        RunStopped: raised by ``job.emit``, passed on after a checkpoint was saved.
    """
    keep_freed_memory()
    options: TrainingOptions = job.config
    adamw.check_available(options.optimizer.name, adapted.base.model.device)
    order = BatchOrder.from_options(len(objective), options, seed)
    schedule = LearningRateSchedule.from_options(options, order.steps)
    with parallelize(adapted, objective.loss, options.parallel) as parallelism:
        masters = MasterWeights(adapted.named_trainable_parameters, options)
        checkpoints = CheckpointWriter(job, masters, options.checkpoints.every, monitor, additions)
        budget = MicroBatchBudget(job, adapted, options.micro_batch_tokens)
        accumulator = _GradientAccumulator(
            job, adapted, objective, parallelism, masters, budget, additions
        )
        adapted.model.train()
        seed_all(seed)
        steps_done = checkpoints.resume(order.steps)
        if checkpoints.evaluate(steps_done):
            return
        for step, rows in order.batches(steps_done):
            started = time.perf_counter()
            distributed.seed_worker_rank(seed, step)
            learning_rate = schedule.learning_rate_at(step)
            batch = accumulator.prepare(step, rows)
            if step == 0:
                emit_first_batch(job, adapted, objective, batch.prepared, budget.tokens)
            transform = additions.transform(step, learning_rate)
            gradient = accumulator.compute_gradient(batch, learning_rate)
            masters.step(learning_rate, transform)
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
    drawn: Sequence[tuple[Added, Sequence[Item]]]
    """The items of the terms of additions."""


@dataclass(frozen=True)
class _Gradient:
    """The gradient that is in the masters, as numbers."""

    losses: Sequence[float]
    """The shares of all micro-batches in the mean loss of the batch."""
    term_shares: dict[str, list[float]]
    """Those of the terms of additions, by name."""
    norm: float
    """Norm before clipping."""

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
    """Computes the gradient of a batch in micro-batches, smaller ones if memory runs out."""

    job: Job[Any]
    adapted: AdaptedModel
    objective: Objective
    parallelism: Parallelism
    masters: MasterWeights
    budget: MicroBatchBudget
    additions: Additions

    def prepare(self, step: int, rows: Sequence[int]) -> _Batch:
        """Have the objective prepare this rank's rows."""
        self.budget.step = step
        own = rows
        if distributed.world_size() > 1:
            sizes = [self.objective.counts([row]).tokens for row in rows]
            own = [rows[i] for i in distributed.my_share(sizes)]
        prepared = self.objective.prepare(own, self.budget.run)
        return _Batch(step, rows, prepared, self.additions.draw(step))

    def compute_gradient(self, batch: _Batch, learning_rate: float) -> _Gradient:
        """Leave the clipped gradient of the mean loss and of all terms in the masters.

        Raises:
            TrainingError: one of them is not finite. No weight has been updated then.
        """
        for attempt in self.budget.attempts():
            with attempt:
                shares = self._accumulate(batch, attempt.tokens)
        distributed.all_reduce_gradients(self.masters.masters)
        options: TrainingOptions = self.job.config
        with self.parallelism.collectives():
            norm = self.masters.clip_grad_norm(options.optimizer.max_grad_norm)
        # One transfer from the GPU for all numbers of the step: each one waits for the device.
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
        """Run backward through this rank's micro-batches; return their shares of the batch loss.

        Those of an addition have the name of its term, those of the objective have none.
        """
        self.masters.zero_grad()  # of an attempt that ran out of memory
        self.objective.start_update()
        # Of the complete batch, not of this rank's rows: the sum over all is then the mean.
        divisor = self.objective.counts(batch.rows).loss_divisor
        # Without a token that counts, the objective has no gradient on any rank.
        parts = self.objective.micro_batches(batch.prepared, budget) if divisor else ()
        shares = []
        with self.parallelism.collectives():
            for part in self.parallelism.align(parts):
                with self.adapted.autocast():
                    loss = self.parallelism.loss(part) / divisor
                loss.backward()  # type: ignore[no-untyped-call]
                shares.append(("", loss.detach().float()))
            for added, items in micro_batches(batch.drawn, budget):
                with self.adapted.autocast():
                    loss = added.term(items)
                loss.backward()  # type: ignore[no-untyped-call]
                shares.append((added.term_name, loss.detach().float()))
        return shares

    def _write_diagnosis(
        self, batch: _Batch, gradient: _Gradient, learning_rate: float
    ) -> TrainingError:
        """Write ``postmortem.json`` about a step that is not finite; return the error to raise."""
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
            f"norm {gradient.norm}); nothing was updated; the last good checkpoint is "
            f"{last_good or 'none'}",
            hint=f"{path.name} names the rows; try a lower learning rate or precision = 'fp32'",
        )
