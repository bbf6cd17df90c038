"""Constraints on generated tokens: which ones may follow those so far.

Shapes: N rows with new logits, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class TokenConstraint(Protocol):
    """Says which tokens may come next in one completion."""

    def allow(self, ids: Sequence[int]) -> Tensor:
        """Return True for each token that may follow ``ids``: shape V or shorter, on the CPU.

        It is called for each token of a completion, in their order; no ids begin a new one.
        """
        ...


def mask_logits(
    logits_NV: Tensor, constraints: Sequence[TokenConstraint | None], ids: Sequence[Sequence[int]]
) -> Tensor:
    """Return logits without the tokens that a row's constraint forbids, which are minus infinity.

    Args:
        constraints: that of each row, if it has one.
        ids: the tokens of each row so far.
    """
    if not any(constraints):
        return logits_NV
    allowed_NV = torch.zeros(logits_NV.shape, dtype=torch.bool)
    for row, (constraint, so_far) in enumerate(zip(constraints, ids, strict=True)):
        if constraint is None:
            allowed_NV[row] = True
        else:
            allowed_V = constraint.allow(so_far)[: allowed_NV.shape[1]]
            allowed_NV[row, : len(allowed_V)] = allowed_V
    return logits_NV.masked_fill(~allowed_NV.to(logits_NV.device), float("-inf"))
