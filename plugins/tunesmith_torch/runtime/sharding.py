"""Weights that are sharded over the ranks: PyTorch's FSDP2, ``fully_shard``.

Each rank stores a part of every weight, its gradient and its optimizer state: rows of the first
dimension, as a DTensor. FSDP gathers the weights of one block of layers for as long as the block
computes, and sums and scatters the gradients after it::

    block    forward: gather, compute, free     backward: gather, compute, free, sum and scatter
    root     what is in no block, such as embeddings, final norm and head: gathered in a whole pass

A gather or sum waits for all ranks, so all must run the same number of passes. What ranks compute
independently of each other, such as generation, runs inside :func:`unsharded`, where every rank
holds all weights and no pass communicates.

Weights that are trained are sharded in fp32, so each part is its own master weight; blocks compute
with them in the model's format, as in a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from tunesmith.errors import UsageError
from tunesmith_torch.runtime import distributed

__all__ = ["unsharded"]


class ShardedPass(nn.Module):
    """A computation over a sharded model as a module: FSDP follows passes of modules."""

    def __init__(self, model: nn.Module, compute: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self._compute = compute

    def forward(self, *args: Any) -> Tensor:
        """Return what the computation returns, with the root's weights gathered for it."""
        root: Any = self.model
        root.unshard()  # its weights are read outside of its own forward pass
        result = self._compute(*args)
        if not torch.is_grad_enabled():
            root.reshard()  # else the backward pass does it
        return result


def shard(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    compute: Callable[..., Tensor],
    mesh: DeviceMesh,
    dtype: torch.dtype,
) -> ShardedPass:
    """Shard a model in place; return the computation over it, to be called by all ranks together.

    ``blocks`` are gathered one at a time. ``dtype`` is the format of the weights that are trained,
    while they compute.

    Raises:
        UsageError: FSDP cannot shard this model.
    """
    _refuse_shared_weights(blocks)
    sharded_pass = ShardedPass(model, compute)
    try:
        for unit in (*blocks, model, sharded_pass):  # inner ones first
            policy = _precision_policy(unit, dtype)
            fully_shard(unit, mesh=mesh, mp_policy=policy)  # type: ignore[call-overload]
    except (AssertionError, ValueError, NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f'technique.parallel: "sharded" cannot be used with this model: {reason:.200}',
            hint='use parallel = "data"',
        ) from error
    for unit in (sharded_pass, *_shards(model)):
        assert isinstance(unit, FSDPModule)
        # The loss is divided by the counts of the complete batch: gradients are summed, not
        # averaged. Ranks need not have gradients of the same weights.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_reduce_scatter_unused_params(True)
    _prefetch_in_backward(model, blocks)
    return sharded_pass


def is_sharded(model: nn.Module) -> bool:
    """Return True if this rank holds a part of the model's weights now."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Hold all weights on every rank inside the block; does nothing if the model is not sharded.

    All ranks enter it together. Inside, passes without gradients communicate nothing, so each rank
    may run any number of them. The weights must not be changed.
    """
    units = _shards(model) if is_sharded(model) else []
    with distributed.collectives():
        for unit in units:
            unit.unshard()
            unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


@torch.no_grad()
def gather(model: nn.Module) -> None:
    """Replace the parts of the weights by the complete weights, in the format that they compute in.

    Called by all ranks together, after the last pass: the model is for saving from then on.
    """
    complete: dict[Tensor, nn.Parameter] = {}
    with distributed.collectives():
        for unit in _shards(model):
            parts = dict(unit.named_parameters(remove_duplicate=False))
            unit.unshard()
            for name, parameter in unit.named_parameters(remove_duplicate=False):
                if parameter is not parts[name]:
                    full = parameter.detach().clone()
                    complete[parts[name]] = nn.Parameter(full, parameter.requires_grad)
            unit.reshard()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in complete:
                setattr(module, name, complete[parameter])


def local_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor; another tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def complete_value(tensor: Tensor) -> Tensor:
    """Return the complete value of a sharded tensor; all ranks call it. Others are returned."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: Tensor) -> int:
    """Return the row of the first dimension at which this rank's part begins; 0 if it has all."""
    if not isinstance(tensor, DTensor):
        return 0
    _, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return int(offsets[0])


def like_sharded(part: Tensor, like: Tensor) -> Tensor:
    """Return the tensor whose part on this rank is ``part``, sharded in the same way as ``like``.

    If ``like`` is not sharded, it is ``part``.
    """
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part.to(like.device_mesh.device_type),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def _shards(model: nn.Module) -> list[Any]:
    """Return the modules that FSDP gathers, the root first."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _prefetch_in_backward(model: nn.Module, blocks: Sequence[Any]) -> None:
    """Gather the previous block while a block runs backward; before the first one, nothing.

    By default FSDP gathers what had run before the block, passes without gradients included. Ranks
    run any number of those inside :func:`unsharded`, and would wait for gathers of one another.
    """
    whole = model  # in backward it is gathered already
    for previous, block in zip((whole, *blocks), blocks, strict=False):
        block.set_modules_to_backward_prefetch([previous])


def _precision_policy(unit: nn.Module, dtype: torch.dtype) -> MixedPrecisionPolicy:
    """Store the weights of the unit that are trained in fp32; return how they compute."""
    trained = [p for p in unit.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if all(parameter.dtype == torch.float32 for parameter in trained):
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    if any(parameter.dtype != dtype for parameter in trained):
        raise ValueError(f"its weights are in several formats, {dtype} and others")
    for parameter in trained:
        parameter.data = parameter.data.float()
    return MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)


def _refuse_shared_weights(blocks: Sequence[nn.Module]) -> None:
    seen: set[nn.Parameter] = set()
    for block in blocks:
        own = set(block.parameters())
        if own & seen:
            raise UsageError(
                'technique.parallel: "sharded" cannot be used with this model, because several of '
                "its layers share weights",
                hint='use parallel = "data"',
            )
        seen |= own
