"""Compute the common prefix of all rows, often a system prompt, once per micro-batch.

Shapes: P tokens of the prefix, T tokens of a micro-batch, N loss positions.

A micro-batch holds the prefix once, and the rest of each row is a branch of it
(:mod:`tunesmith_torch.kernels.tree_attention`). Rows ``s y s a b``, ``s y s c d`` and
``s y s e f g``, P = 3::

    tokens       s  y  s | a  b | c  d | e  f  g      10 tokens instead of 16
    positions    0  1  2 | 3  4 | 3  4 | 3  4  5      each branch continues the prefix

Short messages after a long system prompt, the usual form of a narrow task, take half the time or
less.

Why the result is exact, forward: in a causal model, layer ``l + 1`` computes position ``t`` of a
row from the states of layer ``l`` at ``t`` and before, and from nothing else::

    h[l+1, t] = layer(h[l, t], keys[l, 0..t], values[l, 0..t])

    keys[l, j], values[l, j]: functions of h[l, j] and of the position j

The embeddings of the first P tokens are the same in all rows. By induction over layers, so are
their states, keys and values: it is enough to compute them once. A position in a branch attends to
these P keys and then to its own branch up to itself. Its position number is the same as in the
separate row, so it computes the same softmax over the same scores.

Why the gradient is exact, too: let ``H`` be all keys and values of the prefix, a function of the
weights ``W``. The loss is a sum over rows ``r``. Each ``L_r`` depends on ``W`` directly and through
``H``::

    separate rows:   dL/dW = sum over r of ( dL_r/dW + dL_r/dH dH/dW )

    shared prefix:   dL/dW = sum over r of dL_r/dW + ( sum over r of dL_r/dH ) dH/dW

Both are equal, because ``dH/dW`` is the same in all rows. Autograd computes the second line: it
adds up the gradients of all branches at ``H``, then runs backward through the prefix once. Only
rounding differs, because sums are added in another order.

The argument needs layers that treat each position separately, except for causal attention. It
fails for dropout of attention, which would differ between rows, and for sliding windows shorter
than a row. :mod:`tunesmith_torch.prefix.prefix_check` tests it on the model itself.
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
"""Minimum share of the rows' tokens in a prefix; a smaller prefix is not shared."""
MAX_SUFFIX_TOKENS = 1024
"""Maximum length of a branch; beyond it, block attention saves more time than sharing does."""


def shared_prefix_length(
    examples: Sequence[Example],
    model: nn.Module,
    report: Report = lambda text: None,
    longest_row: int = 0,
) -> int:
    """Return the number of common initial tokens that can be computed once; 0 if none.

    ``longest_row``: tokens in the longest row, if the examples are only a sample. ``report``
    receives the reason if the rows have a common prefix but the model cannot share it.
    """
    P = common_prefix_length(examples)
    longest = max(longest_row, *map(len, examples)) if P else 0
    return P if P and can_share_prefix(model, longest, report) else 0


def common_prefix_length(examples: Sequence[Example]) -> int:
    """Return the number of initial tokens that all rows share; 0 if sharing saves no time.

    The prefix ends before the token that predicts a row's first trained token, because each row
    makes that prediction separately.
    """
    if len(examples) < 2:
        return 0
    P = limit_prefix(examples, len(examples[0]))
    lengths = [len(example.ids) for example in examples]
    shared = P * len(lengths)
    pays = MIN_PREFIX_SHARE * sum(lengths) <= shared and max(lengths) - P <= MAX_SUFFIX_TOKENS
    return P if pays else 0


def limit_prefix(examples: Sequence[Example], P: int) -> int:
    """Return how many of the first ``P`` tokens these examples share, without tokens in the loss.

    The layout with a prefix does not support loss weights, so the result is 0 if an example has
    any.
    """
    first = np.asarray(examples[0].ids)[:P]
    for example in examples:
        ids, trained = np.asarray(example.ids)[:P], np.asarray(example.trained, dtype=bool)
        same = ids == first[: len(ids)]
        # argmin: the first token that differs; argmax: the first trained token f. The token f - 1
        # predicts it and must be in the branch, so the prefix may hold the tokens 0 to f - 2.
        P = min(P, len(ids) if same.all() else int(np.argmin(same)), int(np.argmax(trained)) - 1)
        if P <= 0 or example.weights is not None:
            return 0
    return P


def collate_with_prefix(
    examples: Sequence[Example], rows: Sequence[int], P: int
) -> tuple[MicroBatch, TreeLayout]:
    """Lay out rows as branches of their first ``P`` tokens, which all of them share."""
    chosen = [examples[row] for row in rows]
    suffixes = [np.asarray(example.ids, dtype=np.int64)[P:] for example in chosen]
    cu_seqlens = [P, *accumulate(map(len, suffixes), initial=P)][1:]
    trained, targets = [], []
    for example, suffix, start in zip(chosen, suffixes, cu_seqlens, strict=False):
        # Suffix position i is token P + i of the row and predicts token P + i + 1. The last token
        # of the prefix predicts nothing here, because `limit_prefix` leaves its target untrained.
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
