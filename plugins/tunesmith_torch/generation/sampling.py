"""Which token comes next, where it is drawn: from uniform numbers that belong to a row.

Shapes: N rows with new logits, V vocabulary, B blocks of it, C tokens of a block.

A token is found by inverting the distribution function, so that a row's numbers alone decide its
answer, whatever is computed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 128
"""Tokens of the vocabulary whose probabilities are summed first."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Draw tokens instead of taking the most likely one.

    Row ``i`` draws from the stream ``(seed, i)``, whatever else is in the batch.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    """Draw from the most likely tokens that together have this probability."""
    seed: int = 0
    streams: tuple[int, ...] | None = None
    """Numbers that take the places of the rows'; None: row ``i`` draws from stream ``i``."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature: must be above 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must be above 0 and at most 1, got {self.top_p}")

    def stream(self, row: int, count: int) -> list[float]:
        """The uniform numbers in [0, 1) that decide the row's tokens."""
        number = row if self.streams is None else self.streams[row]
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
        numbers: list[float] = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
        return numbers

    def draw(self, logits_NV: Tensor, uniforms: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Each row's token, shape N, and its log-probability in nats, before ``top_p``."""
        log_NV = (logits_NV.float() / self.temperature).log_softmax(-1)
        uniform_N1 = torch.tensor(uniforms, dtype=torch.float64, device=log_NV.device)[:, None]
        chosen_N1 = _draw(log_NV.exp(), uniform_N1, self.top_p)
        return chosen_N1[:, 0], log_NV.gather(1, chosen_N1)[:, 0]


def _draw(probability_NV: Tensor, uniform_N1: Tensor, top_p: float) -> Tensor:
    """Invert the distribution function at ``uniform``; shape N1."""
    order_NV = None
    if top_p < 1:
        probability_NV, order_NV = torch.sort(probability_NV, dim=-1, descending=True, stable=True)
        before_NV = probability_NV.cumsum(-1, dtype=torch.float64) - probability_NV
        probability_NV = probability_NV.masked_fill(before_NV >= top_p, 0.0)
    drawn_N1 = _invert(probability_NV, uniform_N1)
    return drawn_N1 if order_NV is None else order_NV.gather(1, drawn_N1)


def _invert(probability_NV: Tensor, uniform_N1: Tensor) -> Tensor:
    """The first token up to which the sum passes ``uniform`` of the whole; shape N1.

    First among blocks of C tokens, then within one: a running sum over all takes longer than all
    else about a draw.
    """
    N, V = probability_NV.shape
    blocks_NBC = functional.pad(probability_NV, (0, -V % BLOCK)).view(N, -1, BLOCK)
    sum_NB = blocks_NBC.sum(-1, dtype=torch.float64).cumsum(-1)
    wanted_N1 = uniform_N1 * sum_NB[:, -1:]
    block_N1 = _passed(sum_NB, wanted_N1)
    inside_NC = blocks_NBC[torch.arange(N, device=block_N1.device), block_N1[:, 0]]
    sum_NC = inside_NC.cumsum(-1, dtype=torch.float64)
    before_N1 = sum_NB.gather(1, block_N1) - sum_NC[:, -1:]
    # Rounded, the rest may be a little below zero, where tokens of no probability stand.
    rest_N1 = (wanted_N1 - before_N1).clamp_(min=0)
    return block_N1 * BLOCK + _passed(sum_NC, rest_N1)


def _passed(sum_NS: Tensor, wanted_N1: Tensor) -> Tensor:
    """Where a running sum passes a value, at the latest where it comes to its end; shape N1."""
    end_N1 = torch.searchsorted(sum_NS, sum_NS[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(sum_NS, wanted_N1, right=True), end_N1)
