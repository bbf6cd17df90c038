"""Estimate the memory per process if N processes train together, with copies or with shards.

With ``parallel = "data"``, each process holds all weights, and a buffer that sums gradients.
With ``"sharded"`` (:mod:`tunesmith_torch.runtime.sharding`), it holds::

    parts      always: 1/N of the trained weights (fp32), the frozen weights (in their dtype),
               the gradients and the optimizer state

    gathered   during a step: the weights outside the blocks (embeddings, head), the block being
               computed, and the next block, which arrives in a buffer.

               In the backward pass also the previous block's fp32 gradients, and a copy of them
               while they are summed

    whole      during evaluations and when saving: all weights, in addition to the parts

If all weights are trained, the peak is at one of three moments:

- in the backward pass of a block;
- in the backward pass of the embeddings, when their gradients and the head's are complete;
- when those gradients are summed.

If only adapters are trained, the peak is where most activations exist. At that moment gloo also
holds a copy of the arriving block.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.timeline import StepPosition

BUCKET_BYTES = 64 * 2**20
"""Maximum size of the buffer that sums gradients (runtime/tensor_buckets.py, BUCKET_NUMEL)."""
GATHERED_BLOCKS = 3
"""Number of blocks in memory at a time: the one being computed, the next one's buffer, and its
copy."""
SUMMED_COPIES = 2
"""fp32 copies of gradients while they are summed: one of FSDP and one of gloo."""


def sum_buffer_bytes(setting: EstimateSetting) -> int:
    """Return the bytes of the buffer that sums the gradients of the model's copies."""
    if setting.processes == 1 or setting.is_sharded:
        return 0
    return min(BUCKET_BYTES, setting.trainable_parameters * 4)


@dataclass(frozen=True)
class ShardSizes:
    """The bytes of a sharded model that one process holds."""

    setting: EstimateSetting

    @property
    def weights(self) -> int:
        """Bytes of this process's part of the weights, without adapters; in fp32 if trained."""
        setting = self.setting
        trained = setting.adapter is None
        whole = setting.shape.parameters * 4 if trained else setting.base_bytes
        return whole // setting.processes

    def part(self, whole: int) -> int:
        """Return this process's part of ``whole`` bytes that are divided evenly."""
        return whole // self.setting.processes

    @property
    def gathered(self) -> int:
        """Maximum bytes of weights gathered whole and of gradients being summed during a step."""
        if self.setting.adapter is not None:
            return self._forward
        w = self.setting.compute_bytes
        embeddings = self.setting.shape.embedding_weights * w  # also the gradients of the head
        return max(
            self._backward + embeddings, self._end_of_backward + 2 * embeddings, self._last_sum
        )

    def gathered_at(self, position: StepPosition) -> int:
        """Return the gathered bytes at a position, without the gradients of outside weights.

        Outside weights are those outside the blocks. The timeline itself contains their gradients.
        """
        if self.setting.adapter is not None:
            return self._forward if "." in position.phase else 0
        if ".backward" in position.phase:
            if position.layer > 0:
                return self._backward
            # The timeline also contains the part of their gradients that remains after the sum.
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
        """Bytes of all weights in the compute dtype, plus the buffer of the largest block."""
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
