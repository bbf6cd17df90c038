"""Divergence between a teacher's and a student's next-token distributions, on a few tokens.

Shapes: N loss positions, n positions of a chunk, V vocabulary, k most likely tokens of the teacher,
K = k + 1.

Storing all V log-probabilities of a teacher would take 200 kB per token. So the teacher's k most
likely tokens are compared one by one, and all others as if they were one token::

    tokens       a     b     c     d     e     f
    teacher    0.50  0.30  0.10  0.05  0.03  0.02
    k = 2      0.50  0.30 |       0.20            coarse distribution, K = 3

The student's probabilities are summed over the same tokens. Merging tokens never increases a KL
divergence (log sum inequality, Cover and Thomas 2006, theorem 2.7.1). So the result is a lower
bound of the divergence over all tokens, and exact for k = V - 1. If the k probabilities were
renormalized instead, the student could give any share to all other tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div

__all__ = ["coarse_logprobs", "divergence"]


def coarse_logprobs(logits_nV: Tensor, ids_nk: Tensor) -> Tensor:
    """Return the log-probabilities of these tokens, and of all others together, [n, K]."""
    others_nV = logits_nV.scatter(1, ids_nk, -torch.inf)
    others_n1 = others_nV.logsumexp(1, keepdim=True)
    return torch.cat([logits_nV.gather(1, ids_nk), others_n1], 1).log_softmax(1)


def divergence(teacher_nK: Tensor, student_nK: Tensor, direction: str) -> Tensor:
    """Return KL(teacher, student) for ``forward``, otherwise KL(student, teacher), in nats, [n]."""
    p_nK, q_nK = (teacher_nK, student_nK) if direction == "forward" else (student_nK, teacher_nK)
    return kl_div(q_nK, p_nK, reduction="none", log_target=True).sum(1)
