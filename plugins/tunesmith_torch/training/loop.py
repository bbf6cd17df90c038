"""The training loop.

Every technique trains through :func:`fit`: rows are drawn, laid out in micro-batches of at most so
many tokens, their loss summed and divided by what the *whole* batch counts (trained tokens, pairs),
so that the result does not depend on how the batch was split, nor on how many processes share it
(:mod:`tunesmith_torch.runtime.distributed`). The weights that move are the affair of
:mod:`tunesmith_torch.models.adapters`, the loss that of an :class:`Objective`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from tunesmith.contracts import Job
from tunesmith.errors import IntegrityError, RunStopped, TrainingError
from tunesmith.events import JSON, Noticed, Saved, Stepped
from tunesmith.storage import require_space, write_atomic
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.models.fingerprint import fingerprint
from tunesmith_torch.optim import adamw
from tunesmith_torch.optim.master_weights import Masters
from tunesmith_torch.optim.schedule import Order, Rate
from tunesmith_torch.options.training import FitOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.malloc import keep_freed_memory
from tunesmith_torch.runtime.memory import peak_bytes
from tunesmith_torch.runtime.seed import seed_all
from tunesmith_torch.training import training_state

SAVE_SECONDS = 120
"""Seconds between checkpoints where the run file does not say: what a crash may cost."""
MEMORY_RETRIES = 3
"""How often a run may halve its micro-batches because memory ran out."""


@dataclass(frozen=True)
class Counts:
    """What a batch holds: its rows' tokens, those with loss, and what its loss is divided by."""

    tokens: int
    trained_tokens: int
    units: float


class Objective(Protocol):
    """What the weights move towards: a loss, summed over micro-batches.

    Where several processes train, each is asked for the micro-batches of its own rows, perhaps
    none, and for counts and figures of the whole batch.
    """

    def __len__(self) -> int:
        """Rows to learn from."""
        ...

    def counts(self, rows: Sequence[int]) -> Counts:
        """What these rows hold together."""
        ...

    def micro_batches(self, rows: Sequence[int], budget: int) -> Sequence[Any]:
        """The rows, laid out so that each micro-batch computes at most ``budget`` tokens."""
        ...

    def loss(self, micro_batch: Any) -> Tensor:
        """The loss summed over the micro-batch's units: a scalar, ready for backward."""
        ...

    def figures(self) -> dict[str, float]:
        """What else the steps since the last call showed, over all ranks; often nothing."""
        ...


Look = Literal["go on", "best", "stop"]


class Course(Protocol):
    """What accompanies a training: several updates for a batch, looks in between, an early end."""

    def finished(self) -> bool:
        """Whether the batch is done with; asked after each of its optimizer steps."""
        ...

    def look(self, step: int) -> Look:
        """Judge the model after so many steps, also after none, and when training is resumed.

        ``best``: it is saved as the best. ``stop``: training ends with the best.
        """
        ...

    def memory(self) -> JSON:
        """What a resumed training must know; it is kept in every checkpoint."""
        ...

    def recall(self, memory: JSON) -> None:
        """Take over what :meth:`memory` gave."""
        ...


class Straight:
    """The usual course: one update for a batch, on to the last step."""

    def finished(self) -> bool:
        return True

    def look(self, step: int) -> Look:
        return "go on"

    def memory(self) -> JSON:
        return {}

    def recall(self, memory: JSON) -> None:
        return None


STRAIGHT = Straight()


def fit(
    job: Job[Any],
    adapted: Adapted,
    objective: Objective,
    *,
    seed: int,
    course: Course = STRAIGHT,
) -> None:
    """Train from the newest checkpoint, or from the start, to the last step.

    Raises:
        TrainingError: a loss or gradient is not finite, or memory ran out for good.
        RunStopped: whatever ``job.emit`` raised; a checkpoint has been saved.
    """
    keep_freed_memory()
    options: FitOptions = job.config
    adamw.require(options.optimizer, adapted.base.model.device)
    if not adapted.trainable:
        raise TrainingError(
            "no parameter of the model is trained: all are frozen",
            hint="choose other targets, or a technique that trains this kind of model",
        )
    order = Order.of(len(objective), options, seed)
    rate = Rate.of(options, order.steps)
    masters = Masters(adapted.trainable, options)
    saving = Saving(job, masters, options.save_every, course)
    stepper = _Stepper(job, adapted, objective, masters, options)
    adapted.model.train()
    seed_all(seed)
    first = saving.resume()
    distributed.refuse_difference("the weights", lambda: fingerprint(adapted.model, ()))
    if saving.heed(first, course.look(first)):
        return
    for step, rows in order.batches(first):
        started = time.perf_counter()
        distributed.reseed(seed, step)
        learning_rate = rate.at(step)
        loss, norm = stepper.gradient(step, rows, learning_rate)
        masters.step(learning_rate)
        while not course.finished():
            loss, norm = stepper.gradient(step, rows, learning_rate)
            masters.step(learning_rate)
        counts = objective.counts(rows)
        event = Stepped(
            stage=job.name,
            step=step + 1,
            steps=order.steps,
            loss=loss,
            learning_rate=learning_rate,
            gradient_norm=norm,
            rows=len(rows),
            tokens=counts.tokens,
            trained_tokens=counts.trained_tokens,
            seconds=time.perf_counter() - started,
            memory_bytes=peak_bytes(adapted.base.model.device),
            epoch=(step + 1) / order.steps_per_epoch,
            extras=objective.figures(),
        )
        if saving.after(event):
            return


@dataclass
class _Stepper:
    """Computes the gradient of one batch, in as many micro-batches as memory needs."""

    job: Job[Any]
    adapted: Adapted
    objective: Objective
    masters: Masters
    options: FitOptions
    budget: int = 0
    retries: int = 0

    def gradient(self, step: int, rows: Sequence[int], learning_rate: float) -> tuple[float, float]:
        """Leave the clipped gradient in the masters; the batch's mean loss and gradient norm.

        Raises:
            TrainingError: either of them is not finite. Nothing has been updated then.
        """
        self.budget = self.budget or self.options.micro_batch_tokens
        losses = self._accumulate(step, rows)
        while losses is None:
            self.masters.drop_gradients()
            losses = self._accumulate(step, rows)
        distributed.sum_gradients(self.masters.masters)
        norm = self.masters.clip(self.options.max_grad_norm)
        *mine, size = torch.stack([*losses, norm.detach().float()]).tolist()
        parts = [part for theirs in distributed.gathered(mine) for part in theirs]
        loss = math.fsum(parts)
        if not math.isfinite(loss) or not math.isfinite(size):
            raise self._postmortem(step, rows, parts, size, learning_rate)
        return loss, size

    def _accumulate(self, step: int, rows: Sequence[int]) -> list[Tensor] | None:
        """Backward through this rank's micro-batches; their shares of the batch's loss.

        Dividing by the units of the whole batch makes the sum over micro-batches, and over ranks,
        the batch's mean. None: memory ran out, here or on another rank.
        """
        units = self.objective.counts(rows).units
        mine = distributed.deal([self.objective.counts([row]).tokens for row in rows])
        losses = []
        try:
            for micro_batch in self.objective.micro_batches([rows[i] for i in mine], self.budget):
                with self.adapted.arithmetic():
                    loss = self.objective.loss(micro_batch) / units
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach().float())
            distributed.gathered(None)  # all are here before gradients are summed
        except distributed.Again:
            return None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        else:
            return losses
        # Only here have the error's frames let go of the activations.
        fused_lora.forget(self.adapted.model)
        self._halve(step)
        with suppress(distributed.Again):
            distributed.compute_again()
        return None

    def _halve(self, step: int) -> None:
        """Go on with micro-batches of half the size; the batch stays what it is."""
        self.retries += 1
        if self.retries > MEMORY_RETRIES:
            raise TrainingError(
                f"step {step + 1}: memory ran out with micro-batches of {self.budget} tokens, "
                f"after halving them {MEMORY_RETRIES} times",
                hint="set gradient_checkpointing = true, a smaller max_length, or train adapters instead",
            )
        if self.adapted.base.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self.budget = max(1, self.budget // 2)
        self.job.emit(
            Noticed(
                level="warning",
                source="memory",
                message=(
                    f"step {step + 1}: memory ran out; going on with micro-batches of "
                    f"{self.budget} tokens, the batch stays the same"
                ),
            )
        )

    def _postmortem(
        self, step: int, rows: Sequence[int], parts: list[float], norm: float, rate: float
    ) -> TrainingError:
        """Write down what is known about a step that went wrong."""
        newest = self.job.checkpoints.newest()
        last_good = newest.path.name if newest else None
        found = {
            "step": step + 1,
            "learning_rate": rate,
            "losses": [repr(part) for part in parts],
            "gradient_norm": repr(norm),
            "rows": [self.job.train[row].source for row in rows if row < len(self.job.train)],
            "largest_gradients": [(n, repr(v)) for n, v in self.masters.largest_gradients()],
            "last_good_checkpoint": last_good,
        }
        path = self.job.out / "postmortem.json"
        if distributed.is_first():
            write_atomic(path, json.dumps(found, indent=2) + "\n")
        what = "gradient" if math.isfinite(math.fsum(parts)) else "loss"
        return TrainingError(
            f"step {step + 1}: the {what} is not finite (loss {math.fsum(parts)}, gradient norm "
            f"{norm}); nothing was updated; the last good checkpoint is {last_good or 'none'}",
            hint=f"{path.name} names the rows; try a lower learning rate or precision = 'fp32'",
        )


@dataclass
class Saving:
    """Checkpoints of a training."""

    job: Job[Any]
    masters: Masters
    every: int | None
    course: Course
    saved: int = 0
    at: float = field(default_factory=time.monotonic)

    def resume(self) -> int:
        """Restore the newest checkpoint; the number of steps already taken."""
        self._require_space()
        checkpoint = distributed.in_turn(self.job.checkpoints.newest)
        if checkpoint is None:
            return 0
        training_state.restore(checkpoint.path, self.masters)
        self.course.recall(checkpoint.meta.get("course", {}))
        self.saved = checkpoint.step
        return checkpoint.step

    def after(self, event: Stepped) -> bool:
        """Tell a step, look at what it made, save where it is time; whether training is over.

        Raises:
            RunStopped: whatever ``job.emit`` raised; the step has been saved.
        """
        step = event.step
        try:
            self.job.emit(event)
        except RunStopped:
            self.save(step)
            raise
        if self.heed(step, self.course.look(step)):
            return True
        if self.due(step):
            self.save(step)
        return False

    def heed(self, step: int, look: Look) -> bool:
        """Do what a look says; whether training is over, with the best weights in place.

        Raises:
            IntegrityError: the best checkpoint is gone.
        """
        if look == "best":
            self.save(step, best=True)
        if look != "stop":
            return False
        best = self.job.checkpoints.best()
        if best is None:
            raise IntegrityError(f"{self.job.checkpoints.folder}: the best checkpoint is gone")
        training_state.restore(best.path, self.masters)
        return True

    def _require_space(self) -> None:
        """Room for the checkpoints that will lie side by side, the one in the making, the result.

        Raises:
            EnvironmentProblem: there is not; both sizes are in the message.
        """
        weights = sum(4 * master.numel() for master in self.masters.masters)
        there = len(self.job.checkpoints.steps())
        more = max(1, self.job.checkpoints.keep + 1 - there)
        require_space(self.job.out, 3 * weights * more + weights)

    def due(self, step: int) -> bool:
        """Whether this step is one after which to save."""
        if self.every is not None:
            return step % self.every == 0
        return time.monotonic() - self.at > SAVE_SECONDS

    def save(self, step: int, *, best: bool = False) -> None:
        """Commit a checkpoint, unless this step has one. Rank 0 does it for all."""
        if not distributed.is_first() or (step == self.saved and not best):
            return
        started = time.perf_counter()

        def write(folder: Path) -> None:
            training_state.save(folder, self.masters)

        meta = {"stage": self.job.name, "course": self.course.memory()}
        path = self.job.checkpoints.save(step, write, meta=meta, best=best)
        self.saved, self.at = step, time.monotonic()
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        seconds = time.perf_counter() - started
        name = str(path.relative_to(self.job.out))
        self.job.emit(Saved(step=step, path=name, bytes=size, seconds=seconds))


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text
