"""Advantages and losses of policy-gradient methods; each function is a formula from a paper.

Shapes: C completions of one prompt, T tokens of one completion, N tokens of a micro-batch.

An advantage is how much better a completion (or a token) was than expected. GRPO and RLOO estimate
the expectation from the other completions of the same prompt, PPO from a learned value per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = [
    "clipped_loss",
    "gae",
    "group_advantages",
    "grpo_advantages",
    "kl_estimate",
    "rloo_advantages",
    "token_advantages",
]


def grpo_advantages(rewards_C: Tensor) -> Tensor:
    """Return ``(r - mean) / std`` within the group, or 0 if all rewards are equal.

    Shao et al. 2024, section 4.1.
    """
    if _all_equal(rewards_C):
        return torch.zeros_like(rewards_C)
    return (rewards_C - rewards_C.mean()) / rewards_C.std(correction=0)


def rloo_advantages(rewards_C: Tensor) -> Tensor:
    """Return each reward minus the mean of the other rewards (Ahmadian et al. 2024, equation 8)."""
    if _all_equal(rewards_C):
        return torch.zeros_like(rewards_C)
    C = len(rewards_C)
    # r_i - (sum of the others) / (C - 1) = (r_i - mean) * C / (C - 1)
    return (rewards_C - rewards_C.mean()) * (C / (C - 1))


def _all_equal(rewards_C: Tensor) -> bool:
    """Return True if the rewards differ only by rounding, which must not become an advantage."""
    spread = float(rewards_C.max() - rewards_C.min())
    return spread <= 1e-5 * float(rewards_C.abs().max())


def group_advantages(
    rewards_C: Tensor, trained_C: Tensor, advantages: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the advantages of the completions where ``trained_C`` is True, and 0 elsewhere."""
    advantage_C = torch.zeros_like(rewards_C)
    if trained_C.any():
        advantage_C[trained_C] = advantages(rewards_C[trained_C])
    return advantage_C


def token_advantages(
    rewards_C: Tensor,
    lengths: Sequence[int],
    kl_penalty_N: Tensor,
    values_N: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Return the generalized advantages of all tokens in C completions of these lengths.

    The reward of a token is minus its KL penalty. The last token of a completion also gets the
    reward of the completion::

        tokens     t0      t1      t2         |  t0      t1
        rewards   -kl     -kl     -kl + r[0]  | -kl     -kl + r[1]
    """
    rewards_N = -kl_penalty_N
    rewards_N[torch.tensor(lengths, device=kl_penalty_N.device).cumsum(0) - 1] += rewards_C
    both = (torch.split(x_N, [*lengths]) for x_N in (rewards_N, values_N))
    return torch.cat([gae(r_T, v_T, gamma, lam) for r_T, v_T in zip(*both, strict=True)])


def gae(rewards_T: Tensor, values_T: Tensor, gamma: float, lam: float) -> Tensor:
    """Return generalized advantages (Schulman et al. 2016, equation 16).

    The value after the last token is 0.
    """
    advantages_T = torch.zeros_like(rewards_T)
    running, next_value = 0.0, 0.0
    for t in reversed(range(len(rewards_T))):
        delta = float(rewards_T[t]) + gamma * next_value - float(values_T[t])
        running = delta + gamma * lam * running
        advantages_T[t] = running
        next_value = float(values_T[t])
    return advantages_T


def clipped_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, clip_range: float
) -> Tensor:
    """Return ``-min(ratio A, clip(ratio) A)`` per token (Schulman et al. 2017, equation 7)."""
    ratio_N = torch.exp(logp_N - old_logp_N)
    clipped_N = ratio_N.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N)


def kl_estimate(logp_N: Tensor, reference_logp_N: Tensor) -> Tensor:
    """Estimate KL(policy, reference) per token: 0 if the models agree, otherwise positive.

    The estimate is ``exp(d) - d - 1`` with ``d = reference - logp``, which is unbiased for tokens
    sampled from the policy (Schulman 2020, "Approximating KL divergence", k3).
    """
    d_N = reference_logp_N - logp_N
    return torch.expm1(d_N) - d_N
