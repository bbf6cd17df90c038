"""Log-probabilities from the model's own forward pass, row by row, which is exact for any model.

Shapes: B rows, T tokens, N loss positions, V vocabulary.

Packing, padding and a separate head are not used. This is slow, so only models whose results would
otherwise change use it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunesmith_torch.data.packing import MicroBatch

__all__ = ["logprobs_of_rows"]


def logprobs_of_rows(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Return the log-probability of each target of a padded micro-batch, in nats, [N].

    ``model`` may be a PEFT model, whose own forward is called.
    """
    assert batch.mask_BT is not None, "to compute rows alone, collate them with packed=False"
    B, T = batch.ids_BT.shape
    logprobs = []
    row_N = batch.trained_N // T
    for row, length in zip(range(B), batch.mask_BT.sum(1).tolist(), strict=True):
        selected = row_N == row
        if not bool(selected.any()):
            continue
        logits_1TV = model(input_ids=batch.ids_BT[row : row + 1, :length], use_cache=False).logits
        # Counted from the end, because the logits of learned prompts precede those of the tokens.
        logits_NV = logits_1TV[0, -length:][batch.trained_N[selected] % T]
        targets_N = batch.targets_N[selected]
        logprobs.append(-functional.cross_entropy(logits_NV.float(), targets_N, reduction="none"))
    return torch.cat(logprobs)


def loss_of_rows(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Return the summed (weighted) negative log-likelihood of the batch's targets, in nats."""
    logprobs_N = logprobs_of_rows(model, batch)
    return -(logprobs_N if batch.weights_N is None else logprobs_N * batch.weights_N).sum()
