"""Train one adapter for each user, several users in one pass.

Shapes: P numbers of an adapter.

Every user has an own copy of the shared adapter, optimizer, seed, learning-rate schedule, gradient
clipping and early stopping. Nothing here combines numbers of two users. The pull towards the shared
adapter is that of L2-SP (Li et al. 2018, *Explicit Inductive Bias for Transfer Learning*, section
3), decoupled from the gradient as in AdamW.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from tunesmith_personal.options import PersonalOptions
from tunesmith_personal.segments import SegmentedModel, padded_size
from tunesmith_torch.data.packing import Example, MicroBatch, collate
from tunesmith_torch.optim.schedule import BatchOrder, LearningRateSchedule


@dataclass
class UserTraining:
    """The state of one user's training."""

    user: str
    examples: Sequence[Example]
    validation: Sequence[Example]
    shared_P: Tensor
    options: PersonalOptions
    seed: int
    steps: int = 0
    first_loss: float = math.nan
    """Validation loss of the shared adapter in nats per token; NaN without validation rows."""
    best_loss: float = math.nan
    best_P: Tensor | None = None
    """The adapter to store; None: the shared adapter is at least as good on validation rows."""
    is_finished: bool = False
    has_diverged: bool = False
    """True if a gradient was not finite; the user then keeps the shared adapter."""
    _worse: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        users = self.options.users
        digest = hashlib.sha256(f"{self.seed}/{self.user}".encode("utf-8", "surrogatepass"))
        seed = int.from_bytes(digest.digest()[:6])
        self.order = BatchOrder(len(self.examples), users.batch_size, users.epochs, seed)
        self.schedule = LearningRateSchedule(
            users.learning_rate,
            self.order.steps,
            self.options.schedule.warmup_ratio,
            self.options.schedule.type,
        )
        self.vector_P = self.shared_P.clone().requires_grad_()
        betas = self.options.optimizer.betas
        self.optimizer = torch.optim.AdamW([self.vector_P], betas=betas, weight_decay=0.0)
        self._batches = self.order.batches()

    def next_chunks(self) -> list[MicroBatch]:
        """Return the rows of the next step, in chunks of at most ``micro_batch_tokens``."""
        self._rows = next(self._batches)[1]
        return make_chunks(self.examples, self._rows, self.options.micro_batch_tokens)

    def update(self) -> None:
        """Apply the gradient of the summed loss of the step's rows, then the pull.

        If the gradient is not finite, this user's training ends, and no other user's.
        """
        gradient_P = self.vector_P.grad
        assert gradient_P is not None
        # Rows of weight 0 have no gradient: 0 / 1.
        gradient_P /= count_targets(self.examples, self._rows) or 1.0
        limit = self.options.optimizer.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_([self.vector_P], limit)
        if not norm.isfinite():
            self.is_finished = self.has_diverged = True
            self.best_P = None
            return
        rate = self.schedule.learning_rate_at(self.steps)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.vector_P.lerp_(self.shared_P, min(1.0, rate * self.options.users.pull))
        self.steps += 1

    @property
    def is_epoch_end(self) -> bool:
        """True if the training has just finished an epoch, or all steps."""
        ended = self.steps % self.order.steps_per_epoch == 0
        return self.steps == self.order.steps or ended

    def end_epoch(self, loss: float) -> None:
        """Keep the adapter if the validation loss is the lowest so far, and decide whether to stop.

        Without validation rows, the adapter of the last step is kept. With validation rows, a loss
        that is NaN is worse than any other.
        """
        if not self.validation or loss < self.best_loss:
            self.best_loss, self._worse = loss, 0
            self.best_P = self.vector_P.detach().clone()
        else:
            self._worse += 1
        out_of_patience = self._worse >= self.options.users.patience
        self.is_finished = self.steps == self.order.steps or out_of_patience


def train_users(model: SegmentedModel, users: Sequence[UserTraining], budget: int) -> None:
    """Train users until each is finished, in passes of at most ``budget`` tokens.

    A user with more tokens than the budget gets passes alone. A budget of 0: every user does.
    """
    for user, loss in zip(users, validate(model, users, budget), strict=True):
        user.first_loss = user.best_loss = loss
    while active := [user for user in users if not user.is_finished]:
        chunks = [user.next_chunks() for user in active]
        for part in zip_longest(*chunks):
            for indices in _plan_passes(part, budget):
                vectors = [active[i].vector_P for i in indices]
                losses = model.losses(vectors, [part[i] for i in indices])
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        for user in active:
            user.update()
        ended = [user for user in active if user.is_epoch_end and not user.has_diverged]
        for user, loss in zip(ended, validate(model, ended, budget), strict=True):
            user.end_epoch(loss)


@torch.no_grad()
def validate(model: SegmentedModel, users: Sequence[UserTraining], budget: int) -> list[float]:
    """Return each user's loss on the own validation rows in nats per token; NaN without rows."""
    chunks = [
        make_chunks(user.validation, range(len(user.validation)), user.options.micro_batch_tokens)
        for user in users
    ]
    totals = [0.0] * len(users)
    for part in zip_longest(*chunks):
        for indices in _plan_passes(part, budget):
            vectors = [users[i].vector_P for i in indices]
            losses = model.losses(vectors, [part[i] for i in indices])
            for i, loss in zip(indices, losses, strict=True):
                totals[i] += float(loss)
    counts = [count_targets(u.validation, range(len(u.validation))) for u in users]
    return [t / n if n else math.nan for t, n in zip(totals, counts, strict=True)]


def make_chunks(examples: Sequence[Example], rows: Sequence[int], tokens: int) -> list[MicroBatch]:
    """Divide rows in their order into rectangles of at most ``tokens`` tokens, if rows fit."""
    chunks: list[list[int]] = []
    longest = 0
    for row in rows:
        longest = max(longest, len(examples[row]))
        if not chunks or (len(chunks[-1]) + 1) * longest > tokens:
            chunks.append([])
            longest = len(examples[row])
        chunks[-1].append(row)
    return [collate(examples, chunk, packed=False) for chunk in chunks]


def count_targets(examples: Sequence[Example], rows: Sequence[int]) -> float:
    """Return the total loss weight of the rows' tokens, which is their number without weights."""
    total = 0.0
    for example in (examples[row] for row in rows):
        trained_T = np.asarray(example.trained, bool)[1:]
        weights = np.ones(len(trained_T)) if example.weights is None else example.weights[1:]
        total += float(np.asarray(weights, np.float64)[trained_T].sum())
    return total


def _plan_passes(part: Sequence[MicroBatch | None], budget: int) -> Iterator[list[int]]:
    """Yield the indices of the batches of each pass, in order; one batch per user."""
    indices: list[int] = []
    size = 0
    for index, batch in enumerate(part):
        if batch is None:
            continue
        tokens = padded_size(batch)
        if indices and size + tokens > budget:
            yield indices
            indices, size = [], 0
        indices.append(index)
        size += tokens
    if indices:
        yield indices
