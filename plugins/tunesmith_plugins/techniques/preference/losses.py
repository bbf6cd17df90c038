"""Compute preference losses of pairs or single completions from their log-probabilities.

Shapes: B pairs, C completions. Log-probabilities are in nats. KTO returns one loss per completion,
and the other losses return one per pair. With ``log pi`` and ``log ref`` for the log-probability of
a completion under the policy and the reference, summed over its tokens::

    r = log pi - log ref           log ratio of a completion (KTO)
    h = r_chosen - r_rejected      difference between the two of a pair (DPO, IPO)

ORPO and SimPO have no reference and use the mean of ``log pi`` over the tokens.
"""

# ruff: noqa: N802, N815 - tensors end in their shape, attributes too
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class CompletionScores:
    """The summed log-probabilities and token counts of completions."""

    logprobs_C: Tensor
    """Log-probability of each of C completions, summed over its tokens, in nats."""
    reference_C: Tensor
    """Log-probability under the reference, in nats; zeros if the loss has no reference."""
    tokens_C: Tensor
    """Number of tokens of each completion."""

    @property
    def ratios_C(self) -> Tensor:
        """``log(pi / ref)`` of each completion in nats, or ``logprobs_C`` without a reference."""
        return self.logprobs_C - self.reference_C

    @property
    def means_C(self) -> Tensor:
        """The mean log-probability per token of each completion, in nats."""
        return self.logprobs_C / self.tokens_C

    @property
    def pairs(self) -> PairScores:
        """The scores as pairs. The completions must alternate between chosen and rejected."""
        chosen, rejected = (
            CompletionScores(self.logprobs_C[i::2], self.reference_C[i::2], self.tokens_C[i::2])
            for i in (0, 1)
        )
        return PairScores(chosen, rejected)


@dataclass(frozen=True)
class PairScores:
    """The scores of the chosen and the rejected completion in each of B pairs."""

    chosen: CompletionScores
    rejected: CompletionScores

    @property
    def ratio_differences_B(self) -> Tensor:
        """``h``: the log ratio of the chosen completion minus the log ratio of the rejected one."""
        return self.chosen.ratios_C - self.rejected.ratios_C


def dpo(pairs: PairScores, beta: float, smoothing: float = 0.0) -> Tensor:
    """Return the DPO loss ``-log sigmoid(beta h)`` (Rafailov et al. 2023, equation 7), [B].

    The loss is ln 2 where h is 0. ``smoothing`` is the assumed share of pairs whose labels are
    swapped (conservative DPO; Mitchell 2023, "A note on DPO with noisy preferences").
    """
    h_B = beta * pairs.ratio_differences_B
    return -(1 - smoothing) * logsigmoid(h_B) - smoothing * logsigmoid(-h_B)


def ipo(pairs: PairScores, beta: float) -> Tensor:
    """Return the IPO loss ``(h - 1 / (2 beta))**2`` (Azar et al. 2023, equation 17), [B].

    DPO keeps increasing h, while this loss moves h toward a fixed margin.
    """
    return (pairs.ratio_differences_B - 1 / (2 * beta)) ** 2


def kto(
    scores: CompletionScores,
    desirable_C: Tensor,
    beta: float,
    z0: Tensor,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Return the KTO loss ``lambda - value`` (Ethayarajh et al. 2024, equation 7), [C].

    The lambdas are the two weights::

        desirable    value = lambda_D sigmoid(beta (r - z0))
        undesirable  value = lambda_U sigmoid(beta (z0 - r))

    ``z0`` is an estimate of KL(policy, reference), without a gradient.
    """
    signs_C = torch.where(desirable_C, 1.0, -1.0)
    weights_C = torch.where(desirable_C, desirable_weight, undesirable_weight)
    return weights_C * (1 - torch.sigmoid(beta * signs_C * (scores.ratios_C - z0.detach())))


def orpo(pairs: PairScores, beta: float) -> Tensor:
    """Return the ORPO loss (Hong et al. 2024, equation 6), [B].

    The loss is ``-mean log pi(chosen) - beta log sigmoid(log odds ratio)``.
    """
    chosen_B, rejected_B = pairs.chosen.means_C, pairs.rejected.means_C
    odds_B = _log_odds(chosen_B) - _log_odds(rejected_B)
    return -chosen_B - beta * logsigmoid(odds_B)


def simpo(pairs: PairScores, beta: float, margin: float) -> Tensor:
    """Return the SimPO loss (Meng et al. 2024, equation 6), [B].

    The loss is ``-log sigmoid(beta (mean chosen - mean rejected) - margin)``.
    """
    gap_B = beta * (pairs.chosen.means_C - pairs.rejected.means_C)
    return -logsigmoid(gap_B - margin)


def _log_odds(logprob_B: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))``. Clamp ``log p`` to -1e-6, because p = 1 has infinite odds."""
    logprob_B = logprob_B.clamp(max=-1e-6)
    return logprob_B - torch.log(-torch.expm1(logprob_B))
