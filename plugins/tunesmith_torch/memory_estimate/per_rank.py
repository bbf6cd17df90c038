"""Memory of each process of a training by several: on copies of a model, or on one that is sharded.

With ``parallel = "data"`` each process holds all weights, and a buffer in which gradients are
summed. With ``"sharded"`` (:mod:`tunesmith_torch.runtime.sharding`)::

    parts      1/N of the trained weights in fp32, of frozen ones in their format, of gradients and
               of the optimizer's state
    gathered   while a step computes: what is in no block (embeddings, head), one block that
               computes, and the next one, which arrives in a buffer and is copied out of it; in the
               backward pass also their gradients, in the format of the computation and as the fp32
               copies that are summed
    whole      now and then: all weights, beside the parts
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith_torch.memory_estimate.setting import EstimateSetting

BUCKET_BYTES = 64 * 2**20
"""Largest buffer in which ranks sum gradients (runtime/tensor_buckets.py, BUCKET_NUMEL)."""
GATHERED_BLOCKS = 3
"""Blocks in memory at a time: one that computes, the buffer of the next one, and its copy."""
SUMMED_COPIES = 2
"""Copies in fp32 of the gradients of a block that is summed: FSDP's, and one of gloo."""


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
        """Weights that are complete during a step, and the gradients that are summed."""
        setting, w = self.setting, self.setting.compute_bytes
        block, outside = self._block_weights, self._outside_weights
        block_bytes = round(block * self._bytes_per_block_weight)
        forward = outside * w + GATHERED_BLOCKS * block_bytes
        if setting.adapter is not None:
            adapter = setting.trainable_parameters // setting.shape.layers * 4
            return forward + (GATHERED_BLOCKS + 2) * adapter
        backward = forward + outside * w + block * (w + 4 * SUMMED_COPIES)
        last_sum = outside * (2 * w + 4 * SUMMED_COPIES)
        return max(backward, last_sum)

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
