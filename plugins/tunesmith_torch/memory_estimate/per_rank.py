"""Memory of each process of a training by several: on copies of a model, or on one that is sharded.

With ``parallel = "data"`` each process holds all weights, and a buffer in which gradients are
summed. With ``"sharded"`` (:mod:`tunesmith_torch.runtime.sharding`)::

    parts      1/N of the trained weights in fp32, of frozen ones in their format, of gradients and
               of the optimizer's state
    gathered   while a step computes: what is in no block (embeddings, head), one block that
               computes, and the next one, which arrives in a buffer; in the backward pass also the
               gradients of the block before, in fp32 and with a copy while they are summed
    whole      now and then: all weights, beside the parts

If all weights are trained, the most memory is used at one of three moments: in the backward pass of
a block; in that of the embeddings, whose gradients and those of the head are complete; or when
these are summed. Only adapters trained, it is where the activations are most, and gloo's copy of
the block that arrives is there too.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.timeline import StepPosition

BUCKET_BYTES = 64 * 2**20
"""Largest buffer in which ranks sum gradients (runtime/tensor_buckets.py, BUCKET_NUMEL)."""
GATHERED_BLOCKS = 3
"""Blocks in memory at a time: one that computes, the buffer of the next one, and its copy."""
SUMMED_COPIES = 2
"""Copies in fp32 of gradients that are summed: FSDP's, and one of gloo."""


def sum_buffer_bytes(setting: EstimateSetting) -> int:
    """Return the bytes of the buffer in which copies of a model sum their gradients."""
    if setting.processes == 1 or setting.is_sharded:
        return 0
    return min(BUCKET_BYTES, setting.trainable_parameters * 4)


@dataclass(frozen=True)
class Shards:
    """The bytes that a process holds of a model that is sharded over several."""

    setting: EstimateSetting

    @property
    def weights(self) -> int:
        """The part of the model's weights, adapters apart: their own fp32 masters if trained."""
        setting = self.setting
        trained = setting.adapter is None
        whole = setting.shape.parameters * 4 if trained else setting.base_bytes
        return whole // setting.processes

    def part(self, whole: int) -> int:
        """Return the part of what is distributed evenly."""
        return whole // self.setting.processes

    @property
    def gathered(self) -> int:
        """Weights that are complete during a step, and the gradients that are summed, at most."""
        if self.setting.adapter is not None:
            return self._forward
        w = self.setting.compute_bytes
        embeddings = self.setting.shape.embedding_weights * w  # also the gradients of the head
        return max(
            self._backward + embeddings, self._end_of_backward + 2 * embeddings, self._last_sum
        )

    def gathered_at(self, position: StepPosition) -> int:
        """Return the same at a position, without gradients of what is outside of blocks.

        These are in the timeline itself.
        """
        if self.setting.adapter is not None:
            return self._forward if "." in position.phase else 0
        if ".backward" in position.phase:
            if position.layer > 0:
                return self._backward
            # The timeline also has the part of their gradients that is left after they are summed.
            return max(0, self._end_of_backward - self.part(self._outside_weights * 4))
        if ".forward" in position.phase:
            return self._forward
        return self._last_sum if ".clip" in position.phase else 0

    @property
    def _forward(self) -> int:
        setting = self.setting
        blocks = GATHERED_BLOCKS * round(self._block_weights * self._bytes_per_block_weight)
        adapter = 0
        if setting.adapter is not None:
            adapter = (GATHERED_BLOCKS + 2) * (setting.trainable_parameters // setting.shape.layers)
        return self._outside_weights * setting.compute_bytes + blocks + adapter * 4

    @property
    def _backward(self) -> int:
        w = self.setting.compute_bytes
        return self._outside_weights * w + self._block_weights * (2 * w + 4 * SUMMED_COPIES)

    @property
    def _end_of_backward(self) -> int:
        return self._outside_weights * self.setting.compute_bytes + self._block_weights * 4

    @property
    def _last_sum(self) -> int:
        return self._outside_weights * 4 * SUMMED_COPIES

    @property
    def whole(self) -> int:
        """All weights as they compute, and the buffer from which one block was copied."""
        setting = self.setting
        block = round(self._block_weights * self._bytes_per_block_weight)
        largest = max(block, self._outside_weights * setting.compute_bytes)
        adapter = setting.trainable_parameters * 4 if setting.adapter is not None else 0
        return setting.base_bytes + adapter + largest

    @property
    def _block_weights(self) -> int:
        shape = self.setting.shape
        return shape.layer_linear_weights + shape.layer_other_weights

    @property
    def _outside_weights(self) -> int:
        shape = self.setting.shape
        return shape.parameters - shape.layers * self._block_weights

    @property
    def _bytes_per_block_weight(self) -> float:
        return self.setting.base_weight_bits / 8
