"""The beginning that all rows share, a system prompt most often, computed once per micro-batch.

Shapes: P tokens of the opening, T tokens of a micro-batch, N trained positions.

Keys and values of the opening do not depend on what follows, so a micro-batch of many rows holds it
once, as the trunk from which the rows branch off (:mod:`tunesmith_torch.kernels.tree_attention`)::

    opening | rest of row 0 | rest of row 1 | ...

Gradients flow into it from every row, so what is learned is the same. Short messages behind a long
system prompt, the usual form of a narrow task, cost half as much or less.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import nn

from tunesmith_torch.data.packing import Example, MicroBatch
from tunesmith_torch.kernels.tree_attention import Branch, Branches
from tunesmith_torch.prefix.prefix_check import can_share

WORTHWHILE = 0.1
"""Share of the rows' tokens that an opening must be to be worth its layout."""
LONGEST = 1024
"""Tokens of a row's rest; beyond, attention by blocks saves more than sharing does."""


def shared_opening(examples: Sequence[Example], model: nn.Module) -> int:
    """Tokens of the opening that this model computes once, or 0 where there is none to share."""
    P = opening_of(examples)
    return P if P and can_share(model) else 0


def opening_of(examples: Sequence[Example]) -> int:
    """Tokens that every row begins with, or 0 where sharing them does not pay.

    The token before a row's first trained one is never shared: it is there that the row's own
    first guess is made.
    """
    if len(examples) < 2:
        return 0
    first = np.asarray(examples[0].ids)
    P = len(first)
    for example in examples:
        ids, trained = np.asarray(example.ids)[:P], np.asarray(example.trained, dtype=bool)
        same = ids == first[: len(ids)]
        P = min(P, len(ids) if same.all() else int(np.argmin(same)), int(np.argmax(trained)) - 1)
        if P <= 0:
            return 0
    lengths = [len(example.ids) for example in examples]
    pays = WORTHWHILE * sum(lengths) <= P * len(lengths) and max(lengths) - P <= LONGEST
    return P if pays else 0


def collate_branching(
    examples: Sequence[Example], rows: Sequence[int], P: int
) -> tuple[MicroBatch, Branches]:
    """Lay out rows as branches of their first ``P`` tokens, which are the same in all of them."""
    chosen = [examples[row] for row in rows]
    rests = [np.asarray(example.ids, dtype=np.int64)[P:] for example in chosen]
    cuts = [P, *accumulate(map(len, rests), initial=P)][1:]
    trained, targets = [], []
    for example, rest, start in zip(chosen, rests, cuts, strict=False):
        # Position t guesses token t + 1, within the row.
        at = np.flatnonzero(np.asarray(example.trained, dtype=bool)[P + 1 :])
        trained.append(at + start)
        targets.append(rest[at + 1])
    opening = np.asarray(chosen[0].ids, dtype=np.int64)[:P]
    positions = [np.arange(P), *(np.arange(len(rest)) + P for rest in rests)]
    batch = MicroBatch(
        ids_BT=torch.from_numpy(np.concatenate([opening, *rests]))[None],
        positions_BT=torch.from_numpy(np.concatenate(positions))[None],
        boundaries=None,
        mask_BT=None,
        trained_N=torch.from_numpy(np.concatenate(trained)),
        targets_N=torch.from_numpy(np.concatenate(targets)),
        weights_N=None,
        rows=tuple(rows),
        tokens=cuts[-1],
        longest=P + max(map(len, rests)),
    )
    places = tuple(Branch(0, P, start, stop) for start, stop in pairwise(cuts))
    return batch, Branches(torch.tensor([0, P], dtype=torch.int32), P, places)
