"""Split a micro-batch whose rows belong to different length classes.

Shapes: B rows of a padded micro-batch (1 if packed), T tokens, P = B * T positions, N loss
positions.

Rows of different classes must not share a forward pass: see
:mod:`tunesmith_torch.kernels.rotary_lengths`. With an original context of 4 tokens, a packed
micro-batch of rows ``a b c``, ``d e f g h`` and ``i`` becomes two::

    a b c | i            rows of up to 4 tokens

    d e f g h            longer rows

Nearly all micro-batches have rows of one class and stay unchanged.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from tunesmith_torch.data.packing import MicroBatch
from tunesmith_torch.kernels.rotary_lengths import LengthClasses
from tunesmith_torch.kernels.tree_attention import Branch, TreeLayout

Span = tuple[int, int]
"""The positions of a row or prefix: the first one, and the one after its last."""


@dataclass(frozen=True)
class Part:
    """A part of a micro-batch, with its rows of one length class."""

    batch: MicroBatch
    tree_layout: TreeLayout | None
    selected_N: Tensor
    """Indices of the part's loss positions among those of the complete micro-batch."""


def split_by_length(
    batch: MicroBatch, layout: TreeLayout | None, classes: LengthClasses
) -> list[Part]:
    """Return one part per length class that has loss positions.

    If all rows are of one class, the only part is the whole micro-batch. The length of a row in
    ``layout`` is that of its prefix and branch together.
    """
    whole = Part(batch, layout, torch.arange(len(batch.trained_N), device=batch.trained_N.device))
    if classes.class_of(batch.longest) == 0:
        return [whole]
    lengths = _row_lengths(batch, layout)
    rows_of_class: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        rows_of_class.setdefault(classes.class_of(length), []).append(row)
    if len(rows_of_class) == 1:
        return [whole]
    if layout is not None:
        parts = [_select_branches(batch, layout, rows) for rows in rows_of_class.values()]
    else:
        parts = [_select_rows(batch, rows, lengths) for rows in rows_of_class.values()]
    return [part for part in parts if len(part.selected_N)]


def join_parts(parts: Sequence[Part], compute: Callable[[Part], Tensor]) -> Tensor:
    """Compute each part; return the results in the order of the micro-batch, [N, ...]."""
    if len(parts) == 1:
        return compute(parts[0])
    order_N = torch.cat([part.selected_N for part in parts]).argsort()
    return torch.cat([compute(part) for part in parts]).index_select(0, order_N)


def _row_lengths(batch: MicroBatch, layout: TreeLayout | None) -> list[int]:
    if layout is not None:
        return [b.prefix_stop - b.prefix_start + b.stop - b.start for b in layout.branches]
    if batch.boundaries is not None:
        return [stop - start for start, stop in pairwise(batch.boundaries.tolist())]
    assert batch.mask_BT is not None
    lengths: list[int] = batch.mask_BT.sum(1).tolist()
    return lengths


def _select_rows(batch: MicroBatch, rows: Sequence[int], lengths: Sequence[int]) -> Part:
    chosen = [lengths[row] for row in rows]
    longest = max(chosen)
    if batch.boundaries is not None:
        starts = [0, *accumulate(lengths)]
        part = _select(batch, [(starts[row], starts[row + 1]) for row in rows], longest)
        boundaries = batch.boundaries.new_tensor([0, *accumulate(chosen)])
        return replace(part, batch=replace(part.batch, boundaries=boundaries))
    assert batch.mask_BT is not None
    T = batch.ids_BT.shape[1]
    part = _select(batch, [(row * T, row * T + longest) for row in rows], longest)
    mask_BT = batch.mask_BT[list(rows), :longest]
    ids_BT, positions_BT = part.batch.ids_BT, part.batch.positions_BT
    padded = replace(
        part.batch,
        ids_BT=ids_BT.view(mask_BT.shape),
        positions_BT=positions_BT.view(mask_BT.shape),
        mask_BT=mask_BT,
    )
    return replace(part, batch=padded)


def _select_branches(batch: MicroBatch, layout: TreeLayout, rows: Sequence[int]) -> Part:
    branches = [layout.branches[row] for row in rows]
    prefixes = list(dict.fromkeys((b.prefix_start, b.prefix_stop) for b in branches))
    ends = [0, *accumulate(stop - start for start, stop in prefixes)]
    new_prefix = dict(zip(prefixes, pairwise(ends), strict=True))
    new_branches, end = [], ends[-1]
    for branch in branches:
        prefix_start, prefix_stop = new_prefix[branch.prefix_start, branch.prefix_stop]
        start, end = end, end + branch.stop - branch.start
        new_branches.append(Branch(prefix_start, prefix_stop, start, end))
    # An empty prefix gets no boundary, because packed attention does not accept empty rows.
    cu_seqlens = layout.prefix_cu_seqlens.new_tensor(sorted(set(ends)))
    longest_prefix = max(stop - start for start, stop in prefixes)
    new_layout = TreeLayout(cu_seqlens, longest_prefix, tuple(new_branches))
    spans = [*prefixes, *((branch.start, branch.stop) for branch in branches)]
    return replace(_select(batch, spans, new_layout.longest_sequence), tree_layout=new_layout)


def _select(batch: MicroBatch, spans: Sequence[Span], longest: int) -> Part:
    """Return the positions of these spans, joined end to end into one sequence."""
    device = batch.ids_BT.device
    kept = torch.cat([torch.arange(start, stop, device=device) for start, stop in spans])
    new_index_P = kept.new_full((batch.ids_BT.numel(),), -1)
    new_index_P[kept] = torch.arange(len(kept), device=device)
    trained_N = new_index_P[batch.trained_N]
    selected_N = (trained_N >= 0).nonzero()[:, 0]
    weights_N = batch.weights_N
    part = replace(
        batch,
        ids_BT=batch.ids_BT.flatten()[kept][None],
        positions_BT=batch.positions_BT.flatten()[kept][None],
        trained_N=trained_N[selected_N],
        targets_N=batch.targets_N[selected_N],
        weights_N=None if weights_N is None else weights_N[selected_N],
        tokens=len(kept),
        longest=longest,
    )
    return Part(part, None, selected_N)
