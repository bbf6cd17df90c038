"""The mask of packed rows accepts causal masks within rows, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.kernels.packed_mask import LazyMask, packed_mask

CU_SEQLENS = (0, 3, 4, 9)
T = CU_SEQLENS[-1]
ROW_T = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def within_rows(mask: Mask) -> Mask:
    """The same mask, with the keys of other rows hidden."""
    return lambda b, h, q, k: mask(b, h, q, k) & (ROW_T[q] == ROW_T[k])


def lazy(mask: Mask, **options: Any) -> LazyMask:
    return LazyMask({"mask_function": mask, **options})


def test_causal_within_rows_is_accepted() -> None:
    mask = lazy(within_rows(causal_mask_function))
    mask.check_matches(CU_SEQLENS)
    assert CU_SEQLENS in mask.checked
    window = within_rows(sliding_window_causal_mask_function(2))
    lazy(window, local_size=2).check_matches(CU_SEQLENS)


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        (causal_mask_function, {}),
        (within_rows(lambda b, h, q, k: (q >= 0) & (k >= 0)), {}),
        (within_rows(lambda b, h, q, k: q > k), {}),
        (within_rows(sliding_window_causal_mask_function(2)), {}),
        (within_rows(sliding_window_causal_mask_function(2)), {"local_size": 3}),
        (within_rows(sliding_window_causal_mask_function(3)), {"local_size": 2}),
    ],
    ids=["other rows", "the future", "not itself", "a window", "narrower", "wider"],
)
def test_any_other_mask_is_refused(mask: Mask, options: dict[str, Any]) -> None:
    found = lazy(mask, **options)
    with pytest.raises(EnvironmentProblem, match="not causal within these rows"):
        found.check_matches(CU_SEQLENS)
    assert not found.checked


def options(**changes: Any) -> dict[str, Any]:
    return {
        "batch_size": 1,
        "q_length": T,
        "kv_length": T,
        "q_offset": 0,
        "kv_offset": 0,
        "mask_function": causal_mask_function,
        "attention_mask": None,
        "allow_is_causal_skip": False,
        "dtype": torch.float32,
        **changes,
    }


def test_only_what_may_be_packed_is_lazy() -> None:
    mask = packed_mask(**options())
    assert isinstance(mask, LazyMask) and "table" not in vars(mask)
    dense = packed_mask(**options(batch_size=2))
    assert isinstance(dense, Tensor) and dense.shape[-2:] == (T, T)
    assert mask.table is not None
    assert torch.equal(mask.table[0], dense[0])
    assert not isinstance(packed_mask(**options(q_length=1)), LazyMask)
    padded = options(attention_mask=torch.ones(1, T, dtype=torch.bool))
    assert not isinstance(packed_mask(**padded), LazyMask)
