"""Preference losses over pairs of completions and over single ones, from their log-probabilities.

Shapes: B pairs, C completions. All values are in nats. The loss of KTO is one number per
completion, that of the others one per pair.

``pi`` is the log-probability of a completion under the policy, summed over its tokens, ``ref`` that
under the reference, and ``h = (pi_chosen - ref_chosen) - (pi_rejected - ref_rejected)``. DPO and
IPO use ``h``, KTO the ratio ``pi - ref`` of each completion. ORPO and SimPO have no reference and
use means over tokens.
"""

# ruff: noqa: N802, N815 - tensors end in their shape, attributes too
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class CompletionScores:
    """Summed log-probabilities and token counts of completions."""

    logprobs_C: Tensor
    """Log-probability of each of C completions, summed over its tokens, in nats."""
    reference_C: Tensor
    """Zeros where the loss has no reference."""
    tokens_C: Tensor
    """Tokens of each completion."""

    @property
    def ratios_C(self) -> Tensor:
        """``log(pi / ref)`` of the completions, in nats; ``logprobs_C`` without a reference."""
        return self.logprobs_C - self.reference_C

    @property
    def means_C(self) -> Tensor:
        """Mean log-probability per token of the completions, in nats."""
        return self.logprobs_C / self.tokens_C

    @property
    def pairs(self) -> PairScores:
        """The scores as pairs, if chosen and rejected completions alternate."""
        chosen, rejected = (
            CompletionScores(self.logprobs_C[i::2], self.reference_C[i::2], self.tokens_C[i::2])
            for i in (0, 1)
        )
        return PairScores(chosen, rejected)


@dataclass(frozen=True)
class PairScores:
    """The scores of the two completions of each pair; their C is B."""

    chosen: CompletionScores
    rejected: CompletionScores

    @property
    def ratio_differences_B(self) -> Tensor:
        """``h``: ``log(pi / ref)`` of the chosen completions minus that of the rejected ones."""
        return self.chosen.ratios_C - self.rejected.ratios_C


def dpo(pairs: PairScores, beta: float, smoothing: float = 0.0) -> Tensor:
    """``-log sigmoid(beta h)`` (Rafailov et al. 2023, equation 7); ln 2 where h is 0.

    ``smoothing`` is the assumed share of pairs whose labels are swapped (Mitchell 2023, "A note on
    DPO with noisy preferences", conservative DPO).
    """
    h_B = beta * pairs.ratio_differences_B
    return -(1 - smoothing) * logsigmoid(h_B) - smoothing * logsigmoid(-h_B)


def ipo(pairs: PairScores, beta: float) -> Tensor:
    """``(h - 1 / (2 beta))**2`` (Azar et al. 2023, equation 17): h moves to a fixed margin."""
    return (pairs.ratio_differences_B - 1 / (2 * beta)) ** 2


def kto(
    scores: CompletionScores,
    desirable_C: Tensor,
    beta: float,
    z0: Tensor,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """``lambda - value`` of each completion (Ethayarajh et al. 2024, equation 7), [C].

    The value is ``lambda_D sigmoid(beta (r - z0))`` of a desirable completion, and ``lambda_U
    sigmoid(beta (z0 - r))`` of an undesirable one, with ``r = log(pi / ref)``. The lambdas are the
    two weights. ``z0`` is an estimate of KL(policy, reference); no gradient flows through it.
    """
    signs_C = torch.where(desirable_C, 1.0, -1.0)
    weights_C = torch.where(desirable_C, desirable_weight, undesirable_weight)
    return weights_C * (1 - torch.sigmoid(beta * signs_C * (scores.ratios_C - z0.detach())))


def orpo(pairs: PairScores, beta: float) -> Tensor:
    """``-mean log p(chosen) - beta log sigmoid(log odds ratio)`` (Hong et al. 2024, equation 6)."""
    chosen_B, rejected_B = pairs.chosen.means_C, pairs.rejected.means_C
    odds_B = _log_odds(chosen_B) - _log_odds(rejected_B)
    return -chosen_B - beta * logsigmoid(odds_B)


def simpo(pairs: PairScores, beta: float, margin: float) -> Tensor:
    """``-log sigmoid(beta (mean chosen - mean rejected) - margin)`` (Meng 2024, equation 6)."""
    gap_B = beta * (pairs.chosen.means_C - pairs.rejected.means_C)
    return -logsigmoid(gap_B - margin)


def _log_odds(logprob_B: Tensor) -> Tensor:
    """``log(p / (1 - p))``, with ``log p`` at most -1e-6, because p = 1 has infinite odds."""
    logprob_B = logprob_B.clamp(max=-1e-6)
    return logprob_B - torch.log(-torch.expm1(logprob_B))
