"""What a GPU's operators allocate, where the tracing machine has none.

Tensors without numbers live on the CPU here, because autograd needs the device's library even for
tensors that hold nothing. So code that asks whether it is on a GPU is told yes, attention goes to
the operator that a GPU would take, and kernels' own memory is added from a table, by the formulas
of their sources.
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

from tunesmith_torch.kernels.tree_attention import branch_attention
from tunesmith_torch.memory_estimate.allocation_recorder import Workspace

PACKED, PACKED_GPU, PADDED_GPU = "planned_packed", "planned_packed_gpu", "planned_padded_gpu"
_ON_GPU = {"is_cuda": True, "is_cpu": False}


def register(*, gpu: bool, packed: bool) -> str:
    """The name of an attention that allocates what the device's would."""
    AttentionInterface.register(PACKED, branch_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)
    AttentionInterface.register(PACKED_GPU, _packed_on_gpu)
    AttentionMaskInterface.register(PACKED_GPU, _no_mask)
    AttentionInterface.register(PADDED_GPU, _padded_on_gpu)
    AttentionMaskInterface.register(PADDED_GPU, AttentionMaskInterface()["sdpa"])
    if packed:
        return PACKED_GPU if gpu else PACKED
    return PADDED_GPU if gpu else "sdpa"


def _no_mask(**options: Any) -> None:
    """Which tokens see which is asked of numbers, and there are none."""


# Recomputation in backward runs without the modes of the forward pass: attention brings its own.


def _packed_on_gpu(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    with OnGpu():
        return branch_attention(*args, **kwargs)


def _padded_on_gpu(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    with OnGpu():
        out: tuple[Tensor, Tensor | None] = AttentionInterface()["sdpa"](*args, **kwargs)
        return out


class OnGpu(TorchFunctionMode):
    """Tensors say that they are on a GPU, and attention is the GPU's."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(getattr(func, "__self__", None), "__name__", "")  # a property's getter
        if name in _ON_GPU and getattr(func, "__name__", "") == "__get__":
            return _ON_GPU[name]
        if func is torch.Tensor.__bool__:  # a coin without a number (module dropout): not dropped
            return True
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def on_gpu(*, autocast: bool) -> Iterator[None]:
    """Compute as on a GPU; code that asks for a GPU's autocast finds it on or off."""
    was, device = torch.is_autocast_enabled("cuda"), DefaultDeviceType.get_device_type()
    torch.set_autocast_enabled("cuda", autocast)
    DefaultDeviceType.set_device_type("cpu")  # else checkpointing would try to set it itself
    try:
        with OnGpu():
            yield
    finally:
        DefaultDeviceType.set_device_type(device)
        torch.set_autocast_enabled("cuda", was)


def _attention(  # noqa: PLR0913 - torch's own arguments
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The operator that torch takes on a GPU: flash without a mask, memory-efficient with one."""
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
        odd = attn_mask.shape[-1] % 8  # the kernel wants rows of whole 16 bytes
        if odd:
            attn_mask = torch.nn.functional.pad(attn_mask, (0, 8 - odd))[..., : -(8 - odd)]
        shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        attn_mask = attn_mask.expand(shape)
    result: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]
    return result


# --------------------------------------------------------------------------- workspaces


def _dequantized(args: Sequence[Any]) -> int:
    """A 4-bit product: the matrix in the format of its input, and its scales in fp32.

    bitsandbytes falls back to this for all but a few rows (_dequant_linear_fallback).
    """
    x, _, shape, *_ = args
    numbers = prod(shape)
    return int(numbers * x.element_size() + numbers // 64 * 4)


def _flash_backward(args: Sequence[Any]) -> int:
    """Gradients by queries summed in fp32, a sum per query, and grouped keys written out.

    flash_attn's mha_bwd: dq_accum and softmax_d of rounded sizes, dk_expanded and dv_expanded.
    """
    _, query, key, *_ = args
    *_, width = query.shape
    tokens_heads = query.numel() // width
    rounded = -(-width // 32) * 32
    grouped = 2 * query.numel() * query.element_size() if query.numel() != key.numel() else 0
    return int(tokens_heads * (rounded + 1) * 4 + grouped)


def _efficient_backward(args: Sequence[Any]) -> int:
    """A sum per query in fp32, and keys' and values' gradients in fp32 for wide heads."""
    _, query, key, *_ = args
    per_query = query.numel() // query.shape[-1] * 4
    return int(per_query + (2 * key.numel() * 4 if query.shape[-1] > 64 else 0))


def _sums_in_int32(args: Sequence[Any]) -> int:
    """An 8-bit product is summed in 32 bits before it is scaled (bitsandbytes, int8_linear_matmul).

    The rounded input has a number for each of x's, and is there with it.
    """
    x, weight, *_ = args
    return int(x.numel() // x.shape[-1] * weight.shape[0] * 4)


GPU: Mapping[str, Workspace] = {
    "bitsandbytes::int8_scaled_mm": _sums_in_int32,
    "bitsandbytes::gemm_4bit": _dequantized,
    "torch_attn::_varlen_attn_backward": _flash_backward,
    "aten::_scaled_dot_product_flash_attention_backward": _flash_backward,
}
CPU: Mapping[str, Workspace] = {"bitsandbytes::gemm_4bit": _dequantized}
