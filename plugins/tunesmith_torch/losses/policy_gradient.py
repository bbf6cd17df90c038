"""Advantages and losses of policy gradients: pure functions, each a formula of its paper.

Shapes: A answers of one prompt, T tokens of one answer, N tokens of a micro-batch.

An advantage says how much better an answer (or a token) was than expected. GRPO and RLOO take the
other answers to the same prompt as the expectation, PPO a learned value of each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def grpo(rewards_A: Tensor) -> Tensor:
    """``(r - mean) / std`` within the group (Shao et al. 2024, section 4.1); 0 if all are equal."""
    if _all_equal(rewards_A):
        return torch.zeros_like(rewards_A)
    return (rewards_A - rewards_A.mean()) / rewards_A.std(correction=0)


def rloo(rewards_A: Tensor) -> Tensor:
    """Each reward minus the mean of the others (Ahmadian et al. 2024, equation 8)."""
    if _all_equal(rewards_A):
        return torch.zeros_like(rewards_A)
    A = len(rewards_A)
    return (rewards_A - rewards_A.mean()) * (A / (A - 1))


def _all_equal(rewards_A: Tensor) -> bool:
    """Also where only rounding tells them apart: such noise must not become an advantage."""
    spread = float(rewards_A.max() - rewards_A.min())
    return spread <= 1e-5 * float(rewards_A.abs().max())


def of_group(earned_A: Tensor, kept_A: Tensor, compare: Callable[[Tensor], Tensor]) -> Tensor:
    """Advantages among the answers that are learned from; 0 for the others."""
    advantage_A = torch.zeros_like(earned_A)
    if kept_A.any():
        advantage_A[kept_A] = compare(earned_A[kept_A])
    return advantage_A


def of_tokens(
    earned_A: Tensor,
    lengths: Sequence[int],
    price_N: Tensor,
    values_N: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantages where every token pays its price, and an answer's last one earns."""
    rewards_N = -price_N
    rewards_N[torch.tensor(lengths, device=price_N.device).cumsum(0) - 1] += earned_A
    both = (torch.split(x_N, [*lengths]) for x_N in (rewards_N, values_N))
    return torch.cat([gae(r_T, v_T, gamma, lam) for r_T, v_T in zip(*both, strict=True)])


def gae(rewards_T: Tensor, values_T: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantages (Schulman et al. 2016, equation 16); nothing comes after the end."""
    advantages_T = torch.zeros_like(rewards_T)
    running, after = 0.0, 0.0
    for t in reversed(range(len(rewards_T))):
        delta = float(rewards_T[t]) + gamma * after - float(values_T[t])
        running = delta + gamma * lam * running
        advantages_T[t] = running
        after = float(values_T[t])
    return advantages_T


def clipped(logp_N: Tensor, old_N: Tensor, advantage_N: Tensor, clip: float) -> Tensor:
    """``-min(ratio A, clip(ratio) A)`` for each token (Schulman et al. 2017, equation 7)."""
    ratio_N = torch.exp(logp_N - old_N)
    bounded_N = ratio_N.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio_N * advantage_N, bounded_N * advantage_N)


def divergence(logp_N: Tensor, reference_N: Tensor) -> Tensor:
    """An estimate of KL(policy, reference) for each token, never negative, 0 if they agree.

    ``exp(d) - d - 1`` with ``d = reference - logp``: unbiased for tokens that the policy drew
    (Schulman 2020, "Approximating KL divergence", k3).
    """
    d_N = reference_N - logp_N
    return torch.expm1(d_N) - d_N
