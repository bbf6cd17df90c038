"""Sample tokens with random numbers that belong to a row, whatever batch it is in.

Shapes: N rows with new logits, V vocabulary, B blocks of it, C tokens of a block.

A token is found by inverting the cumulative distribution function at the row's number (inverse
transform sampling). So only a row's own numbers decide its completion. ``torch.multinomial`` cannot
guarantee that, because its random numbers depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Sampler"]

VOCABULARY_BLOCK = 128
"""Number of tokens whose probabilities are summed in the first step."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Samples tokens instead of taking the most likely one.

    Row ``i`` uses the random numbers of stream ``(seed, i)``, whichever rows share its batch.
    """

    temperature: float = 1.0
    """Divisor of the logits, above 0; 1 leaves them as they are."""
    top_p: float = 1.0
    """Sample among the most likely tokens whose total probability reaches this value."""
    seed: int = 0
    """Seed of all streams."""
    streams: tuple[int, ...] | None = None
    """The number of each row's stream; None: row ``i`` uses stream ``i``."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature: must be above 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must be above 0 and at most 1, got {self.top_p}")

    def uniforms(self, row: int, count: int) -> list[float]:
        """Return the ``count`` uniform numbers in [0, 1) that decide the row's tokens."""
        stream = row if self.streams is None else self.streams[row]
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + stream) % 2**63)
        numbers: list[float] = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
        return numbers

    def sample(self, logits_NV: Tensor, uniforms: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return each row's token and its log-probability in nats, both of shape N.

        The log-probability is that after temperature and before ``top_p``. ``uniforms``: one number
        in [0, 1) per row.
        """
        if self.temperature != 1:
            logits_NV = logits_NV.float() / self.temperature
        probability_NV = logits_NV.softmax(-1, dtype=torch.float32)
        uniform_N1 = torch.tensor(uniforms, dtype=torch.float64, device=logits_NV.device)[:, None]
        chosen_N1 = _sample(probability_NV, uniform_N1, self.top_p)
        return chosen_N1[:, 0], probability_NV.gather(1, chosen_N1)[:, 0].log()


def _sample(probability_NV: Tensor, uniform_N1: Tensor, top_p: float) -> Tensor:
    """Return each row's token, chosen by its number in [0, 1); shape N1."""
    order_NV = None
    if top_p < 1:
        probability_NV, order_NV = torch.sort(probability_NV, dim=-1, descending=True, stable=True)
        before_NV = probability_NV.cumsum(-1, dtype=torch.float64) - probability_NV
        probability_NV = probability_NV.masked_fill(before_NV >= top_p, 0.0)
    sampled_N1 = _invert_cdf(probability_NV, uniform_N1)
    return sampled_N1 if order_NV is None else order_NV.gather(1, sampled_N1)


def _invert_cdf(probability_NV: Tensor, uniform_N1: Tensor) -> Tensor:
    """Return the first token at which the cumulative probability exceeds ``uniform``; shape N1.

    ``uniform`` is a fraction of the row's total, so probabilities need not sum to one. The search
    first picks a block of C tokens, then a token in the block. A cumulative sum over the whole
    vocabulary would take longer than the rest of sampling.
    """
    N, V = probability_NV.shape
    if V % VOCABULARY_BLOCK:  # padding by nothing would copy the table
        probability_NV = functional.pad(probability_NV, (0, -V % VOCABULARY_BLOCK))
    blocks_NBC = probability_NV.view(N, -1, VOCABULARY_BLOCK)
    # Sums of blocks in fp32, because fp64 would copy the table.
    sum_NB = blocks_NBC.sum(-1).cumsum(-1, dtype=torch.float64)
    target_N1 = uniform_N1 * sum_NB[:, -1:]
    block_N1 = _first_above(sum_NB, target_N1)
    inside_NC = blocks_NBC[torch.arange(N, device=block_N1.device), block_N1[:, 0]]
    sum_NC = inside_NC.cumsum(-1, dtype=torch.float64)
    before_N1 = sum_NB.gather(1, block_N1) - sum_NC[:, -1:]
    # Rounding may leave the rest slightly below zero, which would select a token of probability 0.
    rest_N1 = (target_N1 - before_N1).clamp_(min=0)
    return block_N1 * VOCABULARY_BLOCK + _first_above(sum_NC, rest_N1)


def _first_above(sum_NS: Tensor, target_N1: Tensor) -> Tensor:
    """Return the index at which a running sum first exceeds a value, shape N1.

    The index is limited to where the sum reaches its final value. Rounding may put the value at or
    above the total, and tokens of probability 0 must not be chosen.
    """
    end_N1 = torch.searchsorted(sum_NS, sum_NS[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(sum_NS, target_N1, right=True), end_N1)
