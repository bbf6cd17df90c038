"""Arrange rows in micro-batches, either packed end to end or padded to a rectangle.

Shapes: B rows of a padded micro-batch (1 if packed), T tokens, R rows, N loss positions.

Three rows ``a``, ``b`` and ``c`` of 3, 2 and 1 tokens, packed; all tokens have a loss weight of 1::

    index           0  1  2 |  3  4 |  5
    ids_BT         a0 a1 a2 | b0 b1 | c0        one sequence of T = 6 tokens, no padding
    positions_BT    0  1  2 |  0  1 |  0        restart in each row
    boundaries      0       |  3    |  5  6     where each row starts, and the end
    trained_N       0  1    |  3    |           indices whose next token is predicted
    targets_N      a1 a2    | b1    |           those next tokens

and padded (``packed=False``)::

    ids_BT         a0 a1 a2 |    positions_BT  0 1 2 |    mask_BT  1 1 1
                   b0 b1  . |                  0 1 . |             1 1 0
                   c0  .  . |                  0 . . |             1 0 0

    trained_N       0  1  3 |    indices into B * T, row by row

Each row must get the same results as alone. Attention must not cross a boundary, so packed rows
need a kernel that reads ``boundaries`` (see :mod:`tunesmith_torch.kernels.varlen_attention`) and
padded rows need ``mask_BT``. Positions restart, because the embedding of a position must not depend
on the rows before it. All other layers treat each position separately.

Labels are shifted here, once, row by row: position ``t`` predicts token ``t + 1`` of the same row,
so ``t`` is *trained* if token ``t + 1`` contributes to the loss. The first token of a row is never
a target, and the last position of a row never predicts. No later code shifts again, and no label is
-100.

Packing is best fit decreasing: longest row first, each into the fullest micro-batch that still has
room for it. With a budget of 10 tokens and rows of 6, 5, 4, 3 and 2::

    row of 6  |  new micro-batch       |  rooms: 4
    row of 5  |  new micro-batch       |  rooms: 4, 5
    row of 4  |  into the room of 4    |  rooms: 5
    row of 3  |  into the room of 5    |  rooms: 2
    row of 2  |  into the room of 2    |  rooms: none

The rooms are the bits of one big integer: bit ``r`` is set if some micro-batch has room for ``r``
more tokens. The fullest micro-batch that fits is the lowest bit at or above the row's length. A
million rows take about a second, and the result depends only on the lengths.
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

__all__ = ["Example", "MicroBatch", "collate", "pack"]


@dataclass(frozen=True)
class Example:
    """A tokenized row with its loss mask and, if they differ, the weights of its tokens."""

    ids: Sequence[int] | NDArray[Any]
    """Token ids of the whole row."""
    trained: Sequence[bool] | NDArray[Any]
    """True for each token that contributes to the loss."""
    weights: Sequence[float] | NDArray[Any] | None = None
    """Loss weight of each token, where 0 excludes the token; None if all weights are 1."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward pass; indices refer to B and T flattened."""

    ids_BT: Tensor
    """Token ids (int64); packed rows form a single row, B = 1."""
    positions_BT: Tensor
    """Position of each token within its row, from 0."""
    boundaries: Tensor | None
    """The index where each packed row starts, and the end (int32, R + 1); None if padded."""
    mask_BT: Tensor | None
    """1 for real tokens, 0 for padding; None if packed."""
    trained_N: Tensor
    """Indices of the positions whose next token contributes to the loss."""
    targets_N: Tensor
    """Ids of the next tokens at ``trained_N``."""
    weights_N: Tensor | None
    """Loss weights of the tokens in ``targets_N`` (float32); None if all are 1."""
    rows: tuple[int, ...]
    """Indices of the rows in the list of examples."""
    tokens: int
    """Number of tokens without padding."""
    longest: int
    """Number of tokens of the longest row."""

    def to(self, device: torch.device | str) -> MicroBatch:
        """Return the micro-batch on this device, without a copy if it is already there."""
        if self.ids_BT.device == torch.device(device):
            return self
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def pack(lengths: Sequence[int] | NDArray[Any], budget: int) -> list[list[int]]:
    """Distribute rows with these lengths over micro-batches of at most ``budget`` tokens.

    Returns:
        The row indices of each micro-batch.

    Raises:
        DataError: a row is longer than the budget, or empty.
    """
    sizes = _check_lengths(lengths, budget)
    batches: list[list[int]] = []
    batches_by_room: dict[int, list[list[int]]] = {}
    rooms = 0
    # A stable sort keeps the order of equally long rows, so the result is reproducible.
    for row in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[row])
        sufficient = rooms >> size  # bit k is set if some micro-batch has room for size + k tokens
        if sufficient:
            lowest_bit = sufficient & -sufficient  # the fullest of these micro-batches
            room = size + lowest_bit.bit_length() - 1
            batch = batches_by_room[room].pop()
            if not batches_by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, batch = budget, []
            batches.append(batch)
        batch.append(row)
        room -= size
        if room:
            batches_by_room.setdefault(room, []).append(batch)
            rooms |= 1 << room
    return batches


def pad_to_multiple(batch: MicroBatch, multiple: int = 32) -> MicroBatch:
    """Pad a packed micro-batch with an extra row, so that its length is a multiple of ``multiple``.

    The loss ignores the extra row, and no real token attends to it. Matrix products are computed in
    tiles of 16 rows. An incomplete tile costs 2 % of the speed on average, and a sixth at some
    lengths, such as 1695. In bf16 on a CPU, each new length costs as much as a thousand tokens
    (:mod:`tunesmith_torch.kernels.padding`).
    """
    length = batch.ids_BT.shape[1]
    missing = -length % multiple
    if batch.boundaries is None or not missing:
        return batch
    padding_1S = batch.ids_BT.new_zeros(1, missing)
    end = batch.boundaries.new_tensor([length + missing])
    return replace(
        batch,
        ids_BT=torch.cat([batch.ids_BT, padding_1S], 1),
        positions_BT=torch.cat([batch.positions_BT, torch.arange(missing)[None]], 1),
        boundaries=torch.cat([batch.boundaries, end]),
        longest=max(batch.longest, missing),
    )


def padded_batches(lengths: Sequence[int] | NDArray[Any], budget: int) -> list[list[int]]:
    """Divide rows in order into micro-batches whose padded size stays within ``budget`` tokens.

    The padded size is the number of rows times the length of the longest row.

    Returns:
        The row indices of each micro-batch.

    Raises:
        DataError: a row is longer than the budget, or empty.
    """
    batches: list[list[int]] = []
    longest = 0
    for row, size in enumerate(_check_lengths(lengths, budget).tolist()):
        longest = max(longest, size)
        if not batches or (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
            longest = size
        batches[-1].append(row)
    return batches


def _check_lengths(lengths: Sequence[int] | NDArray[Any], budget: int) -> NDArray[np.int64]:
    sizes = np.asarray(lengths, dtype=np.int64)
    for row in np.flatnonzero((sizes > budget) | (sizes < 1))[:1].tolist():
        raise DataError(
            f"row {row}",
            f"has {sizes[row]} tokens, but a micro-batch holds 1 to {budget}",
            hint="shorten or remove such rows, or raise the token budget",
        )
    return sizes


def collate(examples: Sequence[Example], rows: Sequence[int], *, packed: bool = True) -> MicroBatch:
    """Arrange ``rows`` of ``examples`` in one micro-batch.

    Raises:
        DataError: the ids, mask and weights of a row differ in length.
    """
    selected = [examples[row] for row in rows]
    lengths = [len(example) for example in selected]
    total, longest = sum(lengths), max(lengths)
    starts = [0, *accumulate(lengths)] if packed else [longest * b for b in range(len(rows))]
    ids = np.zeros(total if packed else len(rows) * longest, dtype=np.int64)
    positions, real = np.zeros_like(ids), np.zeros_like(ids)
    weighted = any(example.weights is not None for example in selected)
    trained, targets, weights = [], [], []
    for row, example, start, length in zip(rows, selected, starts, lengths, strict=False):
        parts = example.trained, example.ids if example.weights is None else example.weights
        if {len(part) for part in parts} != {length}:
            raise DataError(f"row {row}", "needs one mask value and one weight for each token")
        span = slice(start, start + length)
        ids[span], positions[span], real[span] = example.ids, np.arange(length), 1
        # Position t predicts token t + 1, so the mask and the targets are read one token later.
        positions_before = np.flatnonzero(np.asarray(example.trained, dtype=bool)[1:])
        trained.append(positions_before + start)
        targets.append(ids[positions_before + start + 1])
        if weighted:  # the weight of a position is that of the token that it predicts
            weight_of_token = (
                np.ones(length) if example.weights is None else np.asarray(example.weights)
            )
            weights.append(weight_of_token[positions_before + 1].astype(np.float32))
    shape = (1, total) if packed else (len(rows), longest)
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
