"""KL divergence between the previous model and the model in training.

Shapes: N loss positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from tunesmith_torch.data.packing import Example, MicroBatch, collate
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.models.adapter_stack import reference_policy
from tunesmith_torch.runtime.eval_mode import eval_mode
from tunesmith_torch.training.additions import AdditionContext


class PreviousModel:
    """The model that training started from: the adapter switched off, or a frozen copy."""

    def __init__(self, context: AdditionContext) -> None:
        self._adapted, self._model = context.adapted, context.language_model
        is_adapter = context.adapted.format == "adapter"
        self._copy = None if is_adapter else deepcopy(self._model).requires_grad_(False)

    def divergence(self, examples: Sequence[Example], rows: Sequence[int]) -> Tensor:
        """Return KL(previous model || model) in nats, summed over the trained tokens of rows."""
        batch = collate(examples, rows, packed=False).to(self._model.device)
        with torch.no_grad(), self._switched() as previous, eval_mode(previous):
            target_NV = compute_logprobs(previous, batch)
        logp_NV = compute_logprobs(self._model, batch)
        return kl_div(logp_NV, target_NV, reduction="sum", log_target=True)

    @torch.no_grad()
    def measure(self, examples: Sequence[Example]) -> float:
        """Return the mean divergence per trained token, without dropout."""
        with eval_mode(self._model), self._adapted.autocast():
            total = sum(float(self.divergence(examples, [n])) for n in range(len(examples)))
        return total / sum(map(count_trained, examples))

    @contextmanager
    def _switched(self) -> Iterator[Any]:
        if self._copy is not None:
            yield self._copy
            return
        with reference_policy(self._adapted):
            yield self._model


def compute_logprobs(model: Any, batch: MicroBatch) -> Tensor:
    """Return the log-probabilities of the whole vocabulary at the loss positions, in fp32."""
    return get_lm_head(model).logits(hidden_at_targets(model, batch)).log_softmax(-1)


def count_trained(example: Example) -> int:
    """Return the number of tokens of a row that are predicted and trained on."""
    return sum(map(bool, example.trained[1:]))
