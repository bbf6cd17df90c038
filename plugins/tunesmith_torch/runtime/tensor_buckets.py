"""Group tensors of one dtype and device in buckets, each summed over the ranks in one operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BUCKET_NUMEL = 16_777_216
"""Maximum number of elements summed over ranks in one operation: 64 MiB in fp32."""


def split_into_buckets(
    tensors: Sequence[Tensor], bucket_numel: int = BUCKET_NUMEL
) -> list[list[Tensor]]:
    """Group tensors into buckets of one dtype and device, each summed in one operation.

    A bucket of several tensors has at most ``bucket_numel`` elements.
    """
    buckets: list[list[Tensor]] = []
    numel = 0
    for tensor in tensors:
        same = buckets and dtype_and_device(buckets[-1][0]) == dtype_and_device(tensor)
        if not same or numel + tensor.numel() > bucket_numel:
            buckets.append([])
            numel = 0
        buckets[-1].append(tensor)
        numel += tensor.numel()
    return buckets


def dtype_and_device(tensor: Tensor) -> tuple[torch.dtype, torch.device]:
    """Return the dtype and the device, which all tensors of a bucket share."""
    return tensor.dtype, tensor.device


def is_summed_in_place(bucket: Sequence[Tensor]) -> bool:
    """Return True if the bucket needs no buffer."""
    # Most buckets with a single tensor are large, so this saves a buffer of that size.
    return len(bucket) == 1 and bucket[0].is_contiguous()


def allocate_buffers(buckets: Sequence[Sequence[Tensor]]) -> dict[Any, Tensor]:
    """Return a buffer for each dtype and device, as large as its largest bucket."""
    sizes: dict[Any, int] = {}
    for bucket in buckets:
        if not is_summed_in_place(bucket):
            key, size = dtype_and_device(bucket[0]), sum(tensor.numel() for tensor in bucket)
            sizes[key] = max(size, sizes.get(key, 0))
    return {
        (dtype, device): torch.empty(size, dtype=dtype, device=device)
        for (dtype, device), size in sizes.items()
    }
