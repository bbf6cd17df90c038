"""The prefix that all rows have in common, often a system prompt, computed once per micro-batch.

Shapes: P tokens of the prefix, T tokens of a micro-batch, N trained positions.

Keys and values of the prefix do not depend on what follows, so a micro-batch of many rows holds it
once, and the rest of each row is a branch of it (:mod:`tunesmith_torch.kernels.tree_attention`).
Rows ``s y s a b``, ``s y s c d`` and ``s y s e f g``, P = 3::

    tokens       s  y  s | a  b | c  d | e  f  g      10 tokens instead of 16
    positions    0  1  2 | 3  4 | 3  4 | 3  4  5

Gradients flow into the prefix from every row, so the training result is the same. Short messages
after a long system prompt, the usual form of a narrow task, cost half as much or less.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import nn

from tunesmith_torch.data.packing import Example, MicroBatch
from tunesmith_torch.kernels.tree_attention import Branch, TreeLayout
from tunesmith_torch.prefix.prefix_check import Report, can_share_prefix

MIN_PREFIX_SHARE = 0.1
"""A prefix is shared only if it is at least this share of the rows' tokens."""
MAX_SUFFIX_TOKENS = 1024
"""Longest rest of a row; beyond, attention by blocks saves more than sharing the prefix does."""


def shared_prefix_length(
    examples: Sequence[Example],
    model: nn.Module,
    report: Report = lambda text: None,
    longest_row: int = 0,
) -> int:
    """Return the tokens of the prefix that this model computes once, 0 if it cannot share one.

    ``longest_row``: tokens of the longest row, if the examples are only a sample. ``report``
    receives the reason if there is a prefix that cannot be shared.
    """
    P = common_prefix_length(examples)
    longest = max(longest_row, *map(len, examples)) if P else 0
    return P if P and can_share_prefix(model, longest, report) else 0


def common_prefix_length(examples: Sequence[Example]) -> int:
    """Return the number of tokens that every row begins with, 0 if sharing them does not pay.

    The prefix ends before the token that predicts a row's first trained token, because that
    prediction belongs to the row.
    """
    if len(examples) < 2:
        return 0
    P = limit_prefix(examples, len(examples[0]))
    lengths = [len(example.ids) for example in examples]
    shared = P * len(lengths)
    pays = MIN_PREFIX_SHARE * sum(lengths) <= shared and max(lengths) - P <= MAX_SUFFIX_TOKENS
    return P if pays else 0


def limit_prefix(examples: Sequence[Example], P: int) -> int:
    """Return how many of the first ``P`` tokens these examples share, without trained ones.

    Weights of tokens have no place in the layout with a prefix: examples with weights share 0.
    """
    first = np.asarray(examples[0].ids)[:P]
    for example in examples:
        ids, trained = np.asarray(example.ids)[:P], np.asarray(example.trained, dtype=bool)
        same = ids == first[: len(ids)]
        P = min(P, len(ids) if same.all() else int(np.argmin(same)), int(np.argmax(trained)) - 1)
        if P <= 0 or example.weights is not None:
            return 0
    return P


def collate_with_prefix(
    examples: Sequence[Example], rows: Sequence[int], P: int
) -> tuple[MicroBatch, TreeLayout]:
    """Lay out rows as branches of their first ``P`` tokens, which are the same in all of them."""
    chosen = [examples[row] for row in rows]
    suffixes = [np.asarray(example.ids, dtype=np.int64)[P:] for example in chosen]
    cu_seqlens = [P, *accumulate(map(len, suffixes), initial=P)][1:]
    trained, targets = [], []
    for example, suffix, start in zip(chosen, suffixes, cu_seqlens, strict=False):
        # Position t predicts token t + 1 of the same row.
        indices = np.flatnonzero(np.asarray(example.trained, dtype=bool)[P + 1 :])
        trained.append(indices + start)
        targets.append(suffix[indices + 1])
    prefix = np.asarray(chosen[0].ids, dtype=np.int64)[:P]
    positions = [np.arange(P), *(np.arange(len(suffix)) + P for suffix in suffixes)]
    batch = MicroBatch(
        ids_BT=torch.from_numpy(np.concatenate([prefix, *suffixes]))[None],
        positions_BT=torch.from_numpy(np.concatenate(positions))[None],
        boundaries=None,
        mask_BT=None,
        trained_N=torch.from_numpy(np.concatenate(trained)),
        targets_N=torch.from_numpy(np.concatenate(targets)),
        weights_N=None,
        rows=tuple(rows),
        tokens=cu_seqlens[-1],
        longest=P + max(map(len, suffixes)),
    )
    branches = tuple(Branch(0, P, start, stop) for start, stop in pairwise(cu_seqlens))
    return batch, TreeLayout(torch.tensor([0, P], dtype=torch.int32), P, branches)
