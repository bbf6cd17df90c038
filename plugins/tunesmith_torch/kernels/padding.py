"""Pad the number of positions in bf16 products on a CPU, so that few shapes occur.

oneDNN computes these products. It compiles a kernel for each new shape, which takes about as long
as the product of a thousand positions, and keeps the last 1024 kernels. Every micro-batch has other
numbers of tokens, and without padding each would need dozens of new kernels. Products also run in
tiles of 16 rows, and incomplete tiles cost as much as complete ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MULTIPLE = 32


def count_padding(x: Tensor, positions: int) -> int:
    """Return the number of positions to add to this number, in products of ``x``'s type."""
    return -positions % MULTIPLE if x.is_cpu and x.dtype == torch.bfloat16 else 0


def pad_positions(x_ND: Tensor) -> Tensor:
    """Append rows of zeros, as many as :func:`count_padding` returns."""
    padding = count_padding(x_ND, len(x_ND))
    return nn.functional.pad(x_ND, (0, 0, 0, padding)) if padding else x_ND
