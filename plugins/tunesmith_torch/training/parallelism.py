"""Let ranks train together, either on copies of the model or on a sharded model.

Both modes share one training loop. What differs is in the :class:`Parallelism` that
:func:`parallelize` returns::

    replicated    each rank has all weights    gradients are summed once per batch

    sharded       each rank has a part of      FSDP gathers weights and sums gradients in each pass
                  the weights
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import TrainingError, UsageError
from tunesmith_torch.kernels.rotary_lengths import length_classes
from tunesmith_torch.losses.selected_positions import get_decoder
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.fingerprint import compute_fingerprint
from tunesmith_torch.options.training import Parallel
from tunesmith_torch.runtime import distributed, sharding
from tunesmith_torch.runtime.malloc import trim_heap
from tunesmith_torch.runtime.memory import is_out_of_memory

Loss = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Parallelism:
    """Training on copies of the model on every rank, or in a single process."""

    loss: Loss
    """Returns the loss of a micro-batch that :meth:`align` returned."""

    def align(self, micro_batches: Sequence[Any]) -> Sequence[Any]:
        """Return the micro-batches that this rank computes."""
        return micro_batches

    def collectives(self) -> AbstractContextManager[None]:
        """Return the context of the forward and backward passes."""
        return nullcontext()


class ShardedParallelism(Parallelism):
    """Training on a sharded model, where all ranks must run the same number of passes."""

    def align(self, micro_batches: Sequence[Any]) -> Sequence[Any]:
        """Append None, an empty pass, until this rank has as many passes as any other."""
        most = max(distributed.all_gather_object(len(micro_batches)))
        return [*micro_batches, *[None] * (most - len(micro_batches))]

    @contextmanager
    def collectives(self) -> Iterator[None]:
        """End training if a pass fails, because the other ranks cannot leave that pass to retry."""
        with distributed.collectives():
            try:
                yield
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise TrainingError(
                    f"memory ran out in a step with sharded weights: {error!s:.200}",
                    hint="set a smaller technique.micro_batch_tokens, or "
                    "technique.gradient_checkpointing = true",
                ) from error


@contextmanager
def parallelize(adapted: AdaptedModel, loss: Loss, parallel: Parallel) -> Iterator[Parallelism]:
    """Distribute the model as the option asks; after the block, each rank has all of it again.

    Raises:
        TrainingError: a rank has loaded weights that differ from those of rank 0.
        UsageError: the model cannot be sharded.
    """
    distributed.check_same_on_all_ranks(
        "the weights", lambda: compute_fingerprint(adapted.model, ())
    )
    if parallel != "sharded" or distributed.world_size() == 1:
        yield Parallelism(loss)
        return
    blocks = _find_blocks(adapted)

    def compute(micro_batch: Any) -> Tensor:
        return _pass_over_nothing(adapted) if micro_batch is None else loss(micro_batch)

    mesh = distributed.device_mesh(adapted.base.model.device)
    sharded = sharding.shard_model(adapted.model, blocks, compute, mesh, adapted.precision.dtype)
    if mesh.device_type == "cpu":
        trim_heap()  # keep_freed_memory would otherwise hold on to the memory of the whole model
    with distributed.collectives(), torch.no_grad():
        sharded(None)  # FSDP finds its root in the first pass
    yield ShardedParallelism(sharded)
    sharding.gather_full_weights(adapted.model)


def _find_blocks(adapted: AdaptedModel) -> list[nn.Module]:
    """Return the layers to gather one at a time: the ones that transformers never splits."""
    base = adapted.base.model
    classes = base._no_split_modules or ()
    blocks = [module for module in base.modules() if type(module).__name__ in classes]
    inner = {part for block in blocks for part in block.modules() if part is not block}
    blocks = [block for block in blocks if block not in inner]
    problem = ""
    if not blocks:
        problem = "transformers does not name its layers"
    elif length_classes(get_decoder(base)).thresholds:
        problem = "long rows need separate passes, but all ranks must run the same number"
    if problem:
        raise UsageError(
            f'technique.parallel: "sharded" cannot be used with this {type(base).__name__}: '
            f"{problem}",
            hint='set technique.parallel = "data"',
        )
    return blocks


def _pass_over_nothing(adapted: AdaptedModel) -> Tensor:
    """Run a pass of one token with loss 0, to take part in all collectives without a gradient."""
    decoder = get_decoder(adapted.base.model)
    ids_1T = torch.zeros(1, 1, dtype=torch.long, device=adapted.base.model.device)
    hidden_1TD = decoder(input_ids=ids_1T, use_cache=False).last_hidden_state
    loss: Tensor = hidden_1TD.float().sum() * 0.0
    return loss
