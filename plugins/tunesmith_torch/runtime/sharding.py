"""Shard weights over the ranks with PyTorch's FSDP2, ``fully_shard``.

Each rank stores a part of every weight, gradient and optimizer state: rows of the first dimension,
as a DTensor. FSDP gathers the weights of a block of layers while the block computes, and sums and
scatters its gradients afterwards::

    block    forward: gather, compute, free     backward: gather, compute, free, sum and scatter
    root     weights outside the blocks, such as embeddings, final norm and head: gathered during
             the whole pass

A gather or sum waits for all ranks, so all ranks must run the same number of passes. Independent
computations of a rank, such as generation, run inside :func:`summon_full_params`, where every rank
holds all weights and passes do not communicate.

Trained weights are sharded in fp32, so each part is its own master weight. Blocks compute with them
in the model's dtype, as in a single process.
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

__all__ = ["summon_full_params"]


class ShardedPass(nn.Module):
    """A computation over a sharded model. It is a module because FSDP adds hooks to modules."""

    def __init__(self, model: nn.Module, compute: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self._compute = compute

    def forward(self, *args: Any) -> Tensor:
        """Run the computation with the root's weights gathered; return its result."""
        root: Any = self.model
        root.unshard()  # the computation reads this module's weights outside its forward pass
        result = self._compute(*args)
        if not torch.is_grad_enabled():
            root.reshard()  # otherwise the backward pass does this
        return result


def shard_model(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    compute: Callable[..., Tensor],
    mesh: DeviceMesh,
    dtype: torch.dtype,
) -> ShardedPass:
    """Shard a model in place; return a computation over it that all ranks call together.

    The ``blocks`` are gathered one at a time. ``dtype`` is the compute dtype of trained weights.

    Raises:
        UsageError: FSDP cannot shard this model.
    """
    _refuse_shared_weights(blocks)
    sharded_pass = ShardedPass(model, compute)
    try:
        for unit in (*blocks, model, sharded_pass):  # inner modules first
            policy = _precision_policy(unit, dtype)
            fully_shard(unit, mesh=mesh, mp_policy=policy)  # type: ignore[call-overload]
    except (AssertionError, ValueError, NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f'technique.parallel: "sharded" cannot be used with this model: {reason:.200}',
            hint='set technique.parallel = "data"',
        ) from error
    for unit in (sharded_pass, *_shards(model)):
        assert isinstance(unit, FSDPModule)
        # The loss is already divided by the counts of the complete batch, so gradients are summed,
        # not averaged. Ranks may have gradients for different weights.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_reduce_scatter_unused_params(True)
    _prefetch_in_backward(model, blocks)
    return sharded_pass


def is_sharded(model: nn.Module) -> bool:
    """Return True if this rank currently holds only a part of the model's weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


@contextmanager
def summon_full_params(model: nn.Module) -> Iterator[None]:
    """Gather all weights on every rank inside the block; no effect if the model is not sharded.

    All ranks enter the block together. Inside, passes without gradients do not communicate, so each
    rank may run any number of them. The weights must not be changed.
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
def gather_full_weights(model: nn.Module) -> None:
    """Replace the parts of the weights with the complete weights, in the compute dtype.

    All ranks call this together after the last pass. Afterwards the model can only be saved.
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


def get_local_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor; return other tensors unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def get_full_tensor(tensor: Tensor) -> Tensor:
    """Return the complete value of a tensor; if it is sharded, all ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def find_first_local_row(tensor: Tensor) -> int:
    """Return the first row of this rank's part; 0 if the tensor is not sharded."""
    if not isinstance(tensor, DTensor):
        return 0
    _, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return int(offsets[0])


def shard_like(part: Tensor, like: Tensor) -> Tensor:
    """Return a tensor sharded like ``like``, whose part on this rank is ``part``.

    If ``like`` is not sharded, return ``part``.
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
    """Return the modules that FSDP gathers, starting with the root."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _prefetch_in_backward(model: nn.Module, blocks: Sequence[Any]) -> None:
    """Make FSDP gather the previous block while a block runs backward.

    By default, FSDP gathers whatever ran before the block, even in passes without gradients. Each
    rank runs any number of those inside :func:`summon_full_params`, so ranks would wait for each
    other's gathers forever.
    """
    whole = model  # already gathered during the backward pass
    for previous, block in zip((whole, *blocks), blocks, strict=False):
        block.set_modules_to_backward_prefetch([previous])


def _precision_policy(unit: nn.Module, dtype: torch.dtype) -> MixedPrecisionPolicy:
    """Convert the unit's trained weights to fp32; return FSDP's policy for computing with them."""
    trained = [p for p in unit.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if all(parameter.dtype == torch.float32 for parameter in trained):
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    if any(parameter.dtype != dtype for parameter in trained):
        raise ValueError(f"its weights have several dtypes, {dtype} and others")
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
                hint='set technique.parallel = "data"',
            )
        seen |= own
