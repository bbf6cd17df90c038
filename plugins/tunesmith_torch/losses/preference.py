"""Preference losses over pairs of completions, from their log-probabilities.

Shapes: B pairs. All values are in nats, and each loss is one number per pair.

``pi`` is the log-probability of a completion under the policy, summed over its tokens, ``ref`` that
under the reference, and ``h = (pi_chosen - ref_chosen) - (pi_rejected - ref_rejected)``. DPO, IPO
and KTO use ``h`` or its parts. ORPO and SimPO have no reference and use means over tokens.
"""

# ruff: noqa: N802, N815 - tensors end in their shape, attributes too
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class PairScores:
    """Summed log-probabilities and token counts of the two completions of each pair."""

    chosen_B: Tensor
    rejected_B: Tensor
    chosen_tokens_B: Tensor
    rejected_tokens_B: Tensor
    chosen_reference_B: Tensor
    """Zeros where the loss has no reference."""
    rejected_reference_B: Tensor

    @property
    def chosen_ratio_B(self) -> Tensor:
        """``log(pi / ref)`` of the chosen completions."""
        return self.chosen_B - self.chosen_reference_B

    @property
    def rejected_ratio_B(self) -> Tensor:
        """``log(pi / ref)`` of the rejected completions."""
        return self.rejected_B - self.rejected_reference_B

    @property
    def chosen_mean_B(self) -> Tensor:
        """Mean log-probability per token of the chosen completions."""
        return self.chosen_B / self.chosen_tokens_B

    @property
    def rejected_mean_B(self) -> Tensor:
        """Mean log-probability per token of the rejected completions."""
        return self.rejected_B / self.rejected_tokens_B


def dpo(pairs: PairScores, beta: float, smoothing: float = 0.0) -> Tensor:
    """``-log sigmoid(beta h)`` (Rafailov et al. 2023, equation 7); ln 2 where h is 0.

    ``smoothing`` is the assumed share of pairs whose labels are swapped (Mitchell 2023, "A note on
    DPO with noisy preferences", conservative DPO).
    """
    h_B = beta * (pairs.chosen_ratio_B - pairs.rejected_ratio_B)
    return -(1 - smoothing) * logsigmoid(h_B) - smoothing * logsigmoid(-h_B)


def ipo(pairs: PairScores, beta: float) -> Tensor:
    """``(h - 1 / (2 beta))**2`` (Azar et al. 2023, equation 17): h moves to a fixed margin."""
    h_B = pairs.chosen_ratio_B - pairs.rejected_ratio_B
    return (h_B - 1 / (2 * beta)) ** 2


def kto(
    pairs: PairScores,
    beta: float,
    baseline: Tensor,
    desirable: float = 1.0,
    undesirable: float = 1.0,
) -> Tensor:
    """The value of each completion against a baseline (Ethayarajh et al. 2024, equation 8).

    ``baseline`` is an estimate of KL(policy, reference), and no gradient flows through it; the two
    weights balance desirable and undesirable completions. The loss of a pair is the mean of both.
    """
    good_B = 1 - torch.sigmoid(beta * (pairs.chosen_ratio_B - baseline))
    bad_B = 1 - torch.sigmoid(beta * (baseline - pairs.rejected_ratio_B))
    return (desirable * good_B + undesirable * bad_B) / 2


def orpo(pairs: PairScores, beta: float) -> Tensor:
    """``-mean log p(chosen) - beta log sigmoid(log odds ratio)`` (Hong et al. 2024, equation 6)."""
    odds_B = _log_odds(pairs.chosen_mean_B) - _log_odds(pairs.rejected_mean_B)
    return -pairs.chosen_mean_B - beta * logsigmoid(odds_B)


def simpo(pairs: PairScores, beta: float, margin: float) -> Tensor:
    """``-log sigmoid(beta (mean chosen - mean rejected) - margin)`` (Meng 2024, equation 6)."""
    gap_B = beta * (pairs.chosen_mean_B - pairs.rejected_mean_B)
    return -logsigmoid(gap_B - margin)


def _log_odds(logprob_B: Tensor) -> Tensor:
    """``log(p / (1 - p))``, with ``log p`` at most -1e-6, because p = 1 has infinite odds."""
    logprob_B = logprob_B.clamp(max=-1e-6)
    return logprob_B - torch.log(-torch.expm1(logprob_B))
