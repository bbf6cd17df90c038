"""Compute the mean of the last layer's hidden states over each prompt.

Shapes: N tokens of all prompts in a batch, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tunesmith.contracts import Progress
from tunesmith_torch.data.packing import Example, collate, padded_batches
from tunesmith_torch.generation.cache_check import can_pad
from tunesmith_torch.losses.selected_positions import hidden_at_targets, unwrap_peft

MAX_TOKENS = 4_096
"""Maximum number of tokens in a forward pass, with padding."""

NO_VECTORS = np.zeros((0, 0), np.float32)


def mean_hidden_states(
    model: nn.Module, prompts: Sequence[Sequence[int]], progress: Progress | None = None
) -> NDArray[np.float32]:
    """Return the mean hidden state of each prompt's tokens: (prompts, D).

    Prompts of similar length share a forward pass, if padding does not change the model's results.
    """
    base = unwrap_peft(model)
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    lengths = [len(prompts[row]) for row in order]
    longest = max(lengths, default=0)
    is_padded = not prompts or can_pad(base, longest)
    budget = max(MAX_TOKENS, longest)
    batches = padded_batches(lengths, budget) if is_padded else [[n] for n in range(len(order))]
    vectors: dict[int, NDArray[np.float32]] = {}
    for batch in batches:
        rows = [order[number] for number in batch]
        # The extra token is the target of the prompt's last token; no other token attends to it.
        examples = [
            Example([*prompts[row], 0], [False, *[True] * len(prompts[row])]) for row in rows
        ]
        collated = collate(examples, range(len(rows)), packed=False).to(base.device)
        hidden_ND = hidden_at_targets(model, collated).float()
        parts = torch.split(hidden_ND, [len(prompts[row]) for row in rows])
        means = [part_ND.mean(0) for part_ND in parts]
        vectors.update(zip(rows, torch.stack(means).cpu().numpy(), strict=True))
        if progress is not None:
            progress(len(vectors))
    return np.stack([vectors[row] for row in range(len(prompts))]) if prompts else NO_VECTORS
