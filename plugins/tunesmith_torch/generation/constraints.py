"""Constraints on generated tokens, which restrict the next token of a completion.

Shapes: N rows with new logits, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class TokenConstraint(Protocol):
    """A constraint on one completion, which decides which tokens may come next."""

    def allow(self, ids: Sequence[int]) -> Tensor:
        """Return a mask of the tokens that may follow ``ids``: shape V or shorter, on the CPU.

        This is called once per token of a completion, in order. An empty ``ids`` starts a new
        completion.
        """
        ...


def mask_logits(
    logits_NV: Tensor, constraints: Sequence[TokenConstraint | None], ids: Sequence[Sequence[int]]
) -> Tensor:
    """Return logits with minus infinity for tokens that a row's constraint forbids.

    Args:
        constraints: the constraint of each row, or None.
        ids: the generated tokens of each row so far.
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
