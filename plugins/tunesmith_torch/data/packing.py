"""Rows into micro-batches: packed end to end, or padded to a rectangle (the off switch).

Shapes: B rows of a padded micro-batch (1 if packed), T tokens, R rows, N trained positions.

A model is a function from position ``t`` to a guess at token ``t + 1`` of the same row. So labels
are shifted here, once, row by row: position ``t`` is *trained* if its row's token ``t + 1`` carries
loss. Nothing is learnt across rows: a row's first token is nobody's target, its last position has
none. Nothing downstream shifts again, and there are no labels of -100.

Packing is best fit, longest first: each row goes to the fullest micro-batch that can hold it.
Which rooms exist is one big integer with bit ``r`` set if some micro-batch has room for ``r`` more
tokens, so the fullest fitting one is the lowest bit set at or above the length: a million rows take
about a second, and the result depends on the lengths alone.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.errors import DataError


@dataclass(frozen=True)
class Example:
    """One row: its tokens, which of them carry loss, and with what weight (None: all the same)."""

    ids: Sequence[int] | NDArray[Any]
    trained: Sequence[bool] | NDArray[Any]
    weights: Sequence[float] | NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass needs; positions are counted over B and T flattened."""

    ids_BT: Tensor
    positions_BT: Tensor
    boundaries: Tensor | None
    """Packed: where rows start, and the end (int32, R + 1). None: padded."""
    mask_BT: Tensor | None
    """Padded: which tokens are real. None: packed."""
    trained_N: Tensor
    targets_N: Tensor
    weights_N: Tensor | None
    rows: tuple[int, ...]
    tokens: int
    """Real tokens, padding not counted."""
    longest: int

    def to(self, device: torch.device | str) -> MicroBatch:
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def pack(lengths: Sequence[int] | NDArray[Any], budget: int) -> list[list[int]]:
    """Share out the rows with these lengths to micro-batches of at most ``budget`` tokens.

    Raises:
        DataError: a row is longer than the budget, or empty.
    """
    sizes = _checked(lengths, budget)
    bins: list[list[int]] = []
    with_room: list[list[list[int]]] = [[] for _ in range(budget + 1)]
    rooms = 0
    for row in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[row])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            chosen = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, chosen = budget, []
            bins.append(chosen)
        chosen.append(row)
        room -= size
        if room:
            with_room[room].append(chosen)
            rooms |= 1 << room
    return bins


def aligned(batch: MicroBatch, multiple: int = 16) -> MicroBatch:
    """A packed micro-batch whose length is such a multiple, by a last row that nobody reads.

    Matrix products cut their work into pieces of 16 rows. At some lengths, 1695 for one, what is
    left over costs a sixth of the speed; on average it is 2 %.
    """
    length = batch.ids_BT.shape[1]
    short = -length % multiple
    if batch.boundaries is None or not short:
        return batch
    filler_1S = batch.ids_BT.new_zeros(1, short)
    end = batch.boundaries.new_tensor([length + short])
    return replace(
        batch,
        ids_BT=torch.cat([batch.ids_BT, filler_1S], 1),
        positions_BT=torch.cat([batch.positions_BT, torch.arange(short)[None]], 1),
        boundaries=torch.cat([batch.boundaries, end]),
        longest=max(batch.longest, short),
    )


def unpacked(lengths: Sequence[int] | NDArray[Any], budget: int) -> list[list[int]]:
    """Share out rows in their order, so that rows times the longest stays within ``budget``.

    Raises:
        DataError: a row is longer than the budget, or empty.
    """
    batches: list[list[int]] = []
    longest = 0
    for row, size in enumerate(_checked(lengths, budget).tolist()):
        longest = max(longest, size)
        if not batches or (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
            longest = size
        batches[-1].append(row)
    return batches


def _checked(lengths: Sequence[int] | NDArray[Any], budget: int) -> NDArray[np.int64]:
    sizes = np.asarray(lengths, dtype=np.int64)
    for row in np.flatnonzero((sizes > budget) | (sizes < 1))[:1].tolist():
        raise DataError(
            f"row {row}",
            f"has {sizes[row]} tokens, a micro-batch holds 1 to {budget}",
            hint="shorten or drop such rows, or raise the token budget",
        )
    return sizes


def collate(examples: Sequence[Example], rows: Sequence[int], *, packed: bool = True) -> MicroBatch:
    """Lay out ``rows`` of ``examples`` as one micro-batch.

    Raises:
        DataError: a row's parts differ in length.
    """
    chosen = [examples[row] for row in rows]
    lengths = [len(example) for example in chosen]
    total, longest = sum(lengths), max(lengths)
    starts = [0, *accumulate(lengths)] if packed else [longest * b for b in range(len(rows))]
    ids = np.zeros(total if packed else len(rows) * longest, dtype=np.int64)
    positions, real = np.zeros_like(ids), np.zeros_like(ids)
    trained, targets, weights = [], [], []
    for row, example, start, length in zip(rows, chosen, starts, lengths, strict=False):
        parts = example.trained, example.ids if example.weights is None else example.weights
        if {len(part) for part in parts} != {length}:
            raise DataError(f"row {row}", "has not one mark and weight for each of its tokens")
        here = slice(start, start + length)
        ids[here], positions[here], real[here] = example.ids, np.arange(length), 1
        # Position t guesses token t + 1: the marks move one to the left, within the row.
        at = np.flatnonzero(np.asarray(example.trained, dtype=bool)[1:])
        trained.append(at + start)
        targets.append(ids[at + start + 1])
        marks = np.ones(length) if example.weights is None else np.asarray(example.weights)
        weights.append(marks[at + 1].astype(np.float32))
    shape = (1, total) if packed else (len(rows), longest)
    weighted = any(example.weights is not None for example in chosen)
    return MicroBatch(
        ids_BT=torch.from_numpy(ids.reshape(shape)),
        positions_BT=torch.from_numpy(positions.reshape(shape)),
        boundaries=torch.tensor(starts, dtype=torch.int32) if packed else None,
        mask_BT=None if packed else torch.from_numpy(real.reshape(shape)),
        trained_N=torch.from_numpy(np.concatenate(trained)),
        targets_N=torch.from_numpy(np.concatenate(targets)),
        weights_N=torch.from_numpy(np.concatenate(weights)) if weighted else None,
        rows=tuple(rows),
        tokens=total,
        longest=longest,
    )
