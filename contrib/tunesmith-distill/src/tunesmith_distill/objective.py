"""The objective of ``distill``: the data's own loss, and the divergence from a teacher.

Shapes: N loss positions, n positions of a chunk, D width, V vocabulary, k most likely tokens of the
teacher, K = k + 1.

With label ``y``, weight ``w`` and temperature ``T``, the loss at a position is::

    L  =  (1 - w) nll(y)  +  w T^2 KL(teacher, student at temperature T)

The value that is reported is the first term with w = 0, as for validation rows and other
techniques; the divergence is a metric.

With ``on_policy``, the gradient of these rows is only a part of a step's gradient
(:mod:`tunesmith_distill.on_policy`).

Gradients of the divergence shrink with 1 / T^2, so the factor T^2 keeps the balance of both terms
when ``T`` changes (Hinton et al. 2015, section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from tunesmith_distill.divergence import coarse_logprobs, divergence
from tunesmith_distill.options import DistillOptions
from tunesmith_torch.losses.selected_positions import LMHead, get_lm_head, hidden_at_targets
from tunesmith_torch.training.supervised import NextTokenObjective

__all__ = ["DistillObjective", "Targets"]

CHUNK_BYTES = 64 * 2**20
"""Maximum size in bytes of the fp32 logits of a chunk."""


class Targets(NamedTuple):
    """A teacher's predictions at N loss positions."""

    ids_Nk: Tensor  # noqa: N815 - tensors end in their shape, attributes too
    """Its most likely tokens."""
    logprobs_NK: Tensor  # noqa: N815
    """Their log-probabilities, and that of all other tokens together, at the temperature."""


class DistillObjective(NextTokenObjective):
    """The mean loss over the tokens of a batch; validation rows have the data's loss alone."""

    options: DistillOptions
    targets: Callable[[Sequence[int]], Targets]
    """Returns the teacher's predictions at all loss positions of some rows, in their order."""

    def start_update(self) -> None:
        """Reset the mean of the divergence, which is reported as a metric."""
        self._sums: list[Tensor] = []

    def loss(self, micro_batch: Any) -> Tensor:
        """Return the summed loss of the data in nats, with the gradient of both terms."""
        share = 1 - self.options.on_policy
        if not self.options.weight:
            value = super().loss(micro_batch)
            return value.detach() + share * (value - value.detach())
        batch, tree_layout = micro_batch[0].to(self.device), micro_batch[1]
        kwargs = {} if tree_layout is None else {"tree_layout": tree_layout}
        hidden_ND = hidden_at_targets(self.model, batch, attention_kwargs=kwargs)
        # Loss positions are in the order of the rows, in every layout.
        ids_Nk, logprobs_NK = (x.to(self.device) for x in self.targets(batch.rows))
        head = get_lm_head(self.model)
        parts = []
        for chunk in _slices(len(hidden_ND), CHUNK_BYTES // (4 * len(head.weight_VD))):
            inputs = hidden_ND[chunk], batch.targets_N[chunk], ids_Nk[chunk], logprobs_NK[chunk]
            # Backward computes the logits of a chunk again, so they exist for one chunk at a time.
            parts.append(checkpoint(self._parts, head, *inputs, use_reentrant=False))
        parts_2N = torch.cat(parts, 1)
        if batch.weights_N is not None:
            parts_2N = parts_2N * batch.weights_N
        summed_2 = parts_2N.sum(1)
        weights_N = torch.ones_like(parts_2N[0]) if batch.weights_N is None else batch.weights_N
        self._sums.append(torch.stack([summed_2[1].detach(), weights_N.sum()]))
        w, T = self.options.weight, self.options.temperature
        trained: Tensor = (1 - w) * summed_2[0] + w * T**2 * summed_2[1]
        return summed_2[0].detach() + share * (trained - trained.detach())

    def _parts(
        self, head: LMHead, hidden_nD: Tensor, labels_n: Tensor, ids_nk: Tensor, teacher_nK: Tensor
    ) -> Tensor:
        """Return the negative log-likelihood and the divergence of each position, [2, n]."""
        logits_nV = head.logits(hidden_nD)
        student_nK = coarse_logprobs(logits_nV / self.options.temperature, ids_nk)
        divergence_n = divergence(teacher_nK, student_nK, self.options.direction)
        return torch.stack([cross_entropy(logits_nV, labels_n, reduction="none"), divergence_n])

    def metrics(self) -> dict[str, float]:
        """Return the mean of the divergence, in nats per token."""
        if not self._sums:
            return {}
        kl, tokens = torch.stack(self._sums).double().sum(0).tolist()
        return {"kl": kl / tokens} if tokens else {}


def _slices(count: int, size: int) -> Iterator[slice]:
    step = max(size, 1)
    return (slice(start, start + step) for start in range(0, max(count, 1), step))
