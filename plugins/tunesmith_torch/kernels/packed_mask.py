"""The mask of packed rows: a table that is built only where somebody needs it.

Shapes: T tokens of a micro-batch, R + 1 boundaries of its rows.

Packed attention needs no table, but the model's own mask decides what each token may see. So it is
asked at the edges, with a few numbers, whether it means the same.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionMaskInterface

from tunesmith.errors import EnvironmentProblem


class DeferredMask:
    """A mask that is built when somebody needs the table; packed rows do not."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.window: int | None = options.get("local_size")
        self.agreed: set[tuple[int, ...]] = set()

    @cached_property
    def table(self) -> Tensor | None:
        table: Tensor | None = AttentionMaskInterface()["sdpa"](**self.options)
        return table

    def agree(self, cuts: tuple[int, ...]) -> None:
        """Ask the model's mask, at the edges of what each token may see, if it means the same."""
        if cuts in self.agreed:
            return
        T, may = cuts[-1], self.options["mask_function"]
        q_T, zero_T = torch.arange(T), torch.zeros(T, dtype=torch.long)
        cuts_R = torch.tensor(cuts)
        first_T = cuts_R[torch.bucketize(q_T, cuts_R, right=True) - 1]
        if self.window is not None:
            first_T = torch.maximum(first_T, q_T - self.window + 1)
        seen_T = may(zero_T, zero_T, q_T, first_T) & may(zero_T, zero_T, q_T, q_T)
        early_T = may(zero_T, zero_T, q_T, (first_T - 1).clamp(min=0)) & (first_T > 0)
        late_T = may(zero_T, zero_T, q_T, (q_T + 1).clamp(max=T - 1)) & (q_T + 1 < T)
        if not bool((seen_T & ~early_T & ~late_T).all()):
            raise refusal("its mask is not causal within these rows", "positions must restart")
        self.agreed.add(cuts)


def packed_mask(**options: Any) -> Any:
    """Build what "sdpa" would build, but later if this may be a packed micro-batch."""
    T = options.get("q_length")
    plain = options["attention_mask"] is None and not options.get("use_vmap")
    if plain and options["batch_size"] == 1 and isinstance(T, int) and options["kv_length"] == T:
        return DeferredMask(options)
    return AttentionMaskInterface()["sdpa"](**options)


def refusal(why: str, hint: str = "train this model without packing") -> EnvironmentProblem:
    return EnvironmentProblem(f"packed attention: {why}", hint=hint)
