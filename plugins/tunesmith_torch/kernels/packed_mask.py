"""The attention mask of packed rows: checked cheaply, and built as a table only if needed.

Shapes: T tokens of a micro-batch, R + 1 boundaries of its R rows.

Packed attention needs no T x T table, because it computes each row alone. But the model's own mask
function decides what each token may see, and this mask may not be causal within rows. So the mask
function is called only at the edges of what each token should see::

    row starts at s                  query q in this row, window w

    ... s-1 | s   s+1  ...  q   q+1 ...

              ^ first       ^ itself          must be seen:     max(s, q - w + 1)  and  q

         ^ before first         ^ next        must be hidden:   the key before it  and  q + 1

That takes 4 T values instead of T * T. The full table is built only for attention that reads it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionMaskInterface

from tunesmith.errors import EnvironmentProblem


class LazyMask:
    """A mask whose dense table is built when it is first read."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.window: int | None = options.get("local_size")
        self.checked: set[tuple[int, ...]] = set()
        """Row boundaries that :meth:`check_matches` has already accepted."""

    @cached_property
    def table(self) -> Tensor | None:
        """The dense mask that "sdpa" would use."""
        table: Tensor | None = AttentionMaskInterface()["sdpa"](**self.options)
        return table

    def check_matches(self, cu_seqlens: tuple[int, ...]) -> None:
        """Check that the model's mask is causal within the rows that start at ``cu_seqlens``.

        Raises:
            EnvironmentProblem: a token would see fewer or more keys than that.
        """
        if cu_seqlens in self.checked:
            return
        T, q_T = cu_seqlens[-1], torch.arange(cu_seqlens[-1])
        starts_R = torch.tensor(cu_seqlens)
        first_T = starts_R[torch.bucketize(q_T, starts_R, right=True) - 1]
        if self.window is not None:
            first_T = torch.maximum(first_T, q_T - self.window + 1)
        keys = first_T, q_T, (first_T - 1).clamp(min=0), (q_T + 1).clamp(max=T - 1)
        # One call for all keys. The mask function takes batch, head, query and key indices.
        zero, queries = torch.zeros(4 * T, dtype=torch.long), q_T.repeat(4)
        visible = self.options["mask_function"](zero, zero, queries, torch.cat(keys))
        first, itself, before, after = visible.view(4, T)
        before, after = before & (first_T > 0), after & (q_T + 1 < T)
        if not bool((first & itself & ~before & ~after).all()):
            reason = "the model's mask is not causal within these rows"
            raise packing_problem(reason, "make `position_ids` restart in each row")
        self.checked.add(cu_seqlens)


def packed_mask(**options: Any) -> Any:
    """Return the mask for "sdpa", as a :class:`LazyMask` if the micro-batch may be packed."""
    T = options.get("q_length")
    plain = options["attention_mask"] is None and not options.get("use_vmap")
    if plain and options["batch_size"] == 1 and isinstance(T, int) and options["kv_length"] == T:
        return LazyMask(options)
    return AttentionMaskInterface()["sdpa"](**options)


def packing_problem(
    reason: str, hint: str = "train this model without packing"
) -> EnvironmentProblem:
    """Return the error for a model whose attention does not work on packed rows."""
    return EnvironmentProblem(f"packed attention: {reason}", hint=hint)
