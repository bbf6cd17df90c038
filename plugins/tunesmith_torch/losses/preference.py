"""Losses over pairs of answers, from the log-probabilities of the two.

Shapes: B pairs. All values are nats, all losses one number for each pair.

Write ``pi`` for the log-probability of a whole answer under the policy, ``ref`` under the
reference, and ``h = (pi_chosen - ref_chosen) - (pi_rejected - ref_rejected)``. DPO, IPO and KTO
move the policy away from a reference, ORPO and SimPO know none and look at means over tokens.
"""

# ruff: noqa: N802, N815 - tensors end in their shape, attributes too
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Scored:
    """What a loss may look at."""

    chosen_B: Tensor
    rejected_B: Tensor
    chosen_tokens_B: Tensor
    rejected_tokens_B: Tensor
    chosen_reference_B: Tensor
    """Zeros where the loss knows no reference."""
    rejected_reference_B: Tensor

    @property
    def chosen_ratio_B(self) -> Tensor:
        return self.chosen_B - self.chosen_reference_B

    @property
    def rejected_ratio_B(self) -> Tensor:
        return self.rejected_B - self.rejected_reference_B

    @property
    def chosen_mean_B(self) -> Tensor:
        return self.chosen_B / self.chosen_tokens_B

    @property
    def rejected_mean_B(self) -> Tensor:
        return self.rejected_B / self.rejected_tokens_B


def dpo(pairs: Scored, beta: float, smoothing: float = 0.0) -> Tensor:
    """``-log sigmoid(beta h)`` (Rafailov et al. 2023, equation 7); ln 2 where h is 0.

    ``smoothing`` is the share of pairs that are thought to be the wrong way round (Mitchell 2023,
    "conservative DPO").
    """
    h_B = beta * (pairs.chosen_ratio_B - pairs.rejected_ratio_B)
    return -(1 - smoothing) * logsigmoid(h_B) - smoothing * logsigmoid(-h_B)


def ipo(pairs: Scored, beta: float) -> Tensor:
    """``(h - 1 / (2 beta))**2`` (Azar et al. 2023, equation 17): a margin to be met, not pushed."""
    h_B = pairs.chosen_ratio_B - pairs.rejected_ratio_B
    return (h_B - 1 / (2 * beta)) ** 2


def kto(
    pairs: Scored, beta: float, baseline: Tensor, desirable: float = 1.0, undesirable: float = 1.0
) -> Tensor:
    """Each answer by itself against a baseline (Ethayarajh et al. 2024, equation 8).

    ``baseline`` is an estimate of KL(policy, reference), no gradient flows through it; the two
    weights balance desirable and undesirable answers. The mean over the pair's two answers.
    """
    good_B = 1 - torch.sigmoid(beta * (pairs.chosen_ratio_B - baseline))
    bad_B = 1 - torch.sigmoid(beta * (baseline - pairs.rejected_ratio_B))
    return (desirable * good_B + undesirable * bad_B) / 2


def orpo(pairs: Scored, beta: float) -> Tensor:
    """``-mean log p(chosen) - beta log sigmoid(log odds ratio)`` (Hong et al. 2024, equation 6)."""
    odds_B = _log_odds(pairs.chosen_mean_B) - _log_odds(pairs.rejected_mean_B)
    return -pairs.chosen_mean_B - beta * logsigmoid(odds_B)


def simpo(pairs: Scored, beta: float, margin: float) -> Tensor:
    """``-log sigmoid(beta (mean chosen - mean rejected) - margin)`` (Meng 2024, equation 6)."""
    gap_B = beta * (pairs.chosen_mean_B - pairs.rejected_mean_B)
    return -logsigmoid(gap_B - margin)


def _log_odds(logprob_B: Tensor) -> Tensor:
    """``log(p / (1 - p))``. A probability of one has no odds, so it stays a hair below."""
    logprob_B = logprob_B.clamp(max=-1e-6)
    return logprob_B - torch.log(-torch.expm1(logprob_B))
