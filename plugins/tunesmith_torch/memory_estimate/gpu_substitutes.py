"""Simulate the allocations of a GPU's operators on a machine without a GPU.

Fake tensors are on the CPU here, because autograd needs the device's library even for tensors
without data. So tensors claim to be on a GPU, and attention calls the operator that a GPU would
run. Kernels' workspaces are added from a table of formulas, taken from the kernels' sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import DefaultDeviceType
from transformers import AttentionInterface, AttentionMaskInterface

from tunesmith_torch.kernels.tree_attention import tree_attention
from tunesmith_torch.memory_estimate.allocation_recorder import Workspace

PACKED_ATTENTION, PACKED_GPU_ATTENTION, PADDED_GPU_ATTENTION = (
    "planned_packed",
    "planned_packed_gpu",
    "planned_padded_gpu",
)
_DEVICE_PROPERTIES = {"is_cuda": True, "is_cpu": False}


def register_attention(*, gpu: bool, packed: bool) -> str:
    """Register attentions with transformers; return the name of the one for this device.

    It allocates the same memory as attention in the real training.
    """
    AttentionInterface.register(PACKED_ATTENTION, tree_attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, _no_mask)
    AttentionInterface.register(PACKED_GPU_ATTENTION, _packed_gpu_attention)
    AttentionMaskInterface.register(PACKED_GPU_ATTENTION, _no_mask)
    AttentionInterface.register(PADDED_GPU_ATTENTION, _padded_gpu_attention)
    AttentionMaskInterface.register(PADDED_GPU_ATTENTION, AttentionMaskInterface()["sdpa"])
    if packed:
        return PACKED_GPU_ATTENTION if gpu else PACKED_ATTENTION
    return PADDED_GPU_ATTENTION if gpu else "sdpa"


def _no_mask(**options: Any) -> None:
    """Return None as the mask: transformers computes masks from data, which fake tensors lack."""


# Recomputation in the backward pass runs outside the forward pass's modes, so attention enters the
# mode itself.


def _packed_gpu_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    with SimulatedGpu():
        return tree_attention(*args, **kwargs)


def _padded_gpu_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    with SimulatedGpu():
        out: tuple[Tensor, Tensor | None] = AttentionInterface()["sdpa"](*args, **kwargs)
        return out


class SimulatedGpu(TorchFunctionMode):
    """Makes tensors report that they are on a GPU, and makes attention run a GPU's operator."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(getattr(func, "__self__", None), "__name__", "")  # a property's getter
        if name in _DEVICE_PROPERTIES and getattr(func, "__name__", "") == "__get__":
            return _DEVICE_PROPERTIES[name]
        if func is torch.Tensor.__bool__:  # module dropout tests a random number: True keeps it
            return True
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _gpu_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def simulated_gpu(*, autocast: bool) -> Iterator[None]:
    """Compute as on a GPU inside the block, where the GPU's autocast state is ``autocast``."""
    autocast_before = torch.is_autocast_enabled("cuda")
    device = DefaultDeviceType.get_device_type()
    torch.set_autocast_enabled("cuda", autocast)
    DefaultDeviceType.set_device_type("cpu")  # or checkpointing would set it to a GPU
    try:
        with SimulatedGpu():
            yield
    finally:
        DefaultDeviceType.set_device_type(device)
        torch.set_autocast_enabled("cuda", autocast_before)


def _gpu_attention(  # noqa: PLR0913 - torch's own arguments
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Call the operator that a GPU would run: flash without a mask, memory-efficient with one."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    half = query.dtype in (torch.bfloat16, torch.float16)
    groups = query.shape[1] // key.shape[1]
    if attn_mask is None and half and query.shape[-1] <= 256:
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
        return out
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(
                attn_mask.logical_not(), float("-inf")
            )
        odd = attn_mask.shape[-1] % 8  # the kernel needs rows aligned to 16 bytes
        if odd:
            attn_mask = torch.nn.functional.pad(attn_mask, (0, 8 - odd))[..., : -(8 - odd)]
        shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        attn_mask = attn_mask.expand(shape)
    result: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]
    return result


# --------------------------------------------------------------------------- workspaces


def _dequantized_bytes(args: Sequence[Any]) -> int:
    """Return the workspace of a 4-bit product: the dequantized matrix, and its scales in fp32.

    The matrix has the input's dtype. bitsandbytes dequantizes for more than a few rows
    (_dequant_linear_fallback).
    """
    x, _, shape, *_ = args
    numbers = prod(shape)
    return int(numbers * x.element_size() + numbers // 64 * 4)


def _flash_backward_bytes(args: Sequence[Any]) -> int:
    """Return the workspace of flash attention's backward pass.

    It holds the queries' gradients, summed in fp32, one sum per query, and the gradients of grouped
    keys and values for every head. In flash_attn's mha_bwd these are dq_accum and softmax_d, of
    rounded sizes, dk_expanded and dv_expanded.
    """
    _, query, key, *_ = args
    *_, width = query.shape
    tokens_heads = query.numel() // width
    rounded = -(-width // 32) * 32
    grouped = 2 * query.numel() * query.element_size() if query.numel() != key.numel() else 0
    return int(tokens_heads * (rounded + 1) * 4 + grouped)


def _efficient_backward_bytes(args: Sequence[Any]) -> int:
    """Return the workspace of memory-efficient attention's backward pass.

    It holds one fp32 sum per query and, for wide heads, the gradients of keys and values in fp32.
    """
    _, query, key, *_ = args
    per_query = query.numel() // query.shape[-1] * 4
    return int(per_query + (2 * key.numel() * 4 if query.shape[-1] > 64 else 0))


def _int32_product_bytes(args: Sequence[Any]) -> int:
    """Return the workspace of an 8-bit product: its sums in int32.

    See int8_linear_matmul in bitsandbytes. The recorder sees the quantized input, a separate
    tensor.
    """
    x, weight, *_ = args
    return int(x.numel() // x.shape[-1] * weight.shape[0] * 4)


GPU_WORKSPACES: Mapping[str, Workspace] = {
    "bitsandbytes::int8_scaled_mm": _int32_product_bytes,
    "bitsandbytes::gemm_4bit": _dequantized_bytes,
    "torch_attn::_varlen_attn_backward": _flash_backward_bytes,
    "aten::_scaled_dot_product_flash_attention_backward": _flash_backward_bytes,
}
CPU_WORKSPACES: Mapping[str, Workspace] = {"bitsandbytes::gemm_4bit": _dequantized_bytes}
