"""Check on the loaded model that packing and row selection do not change log-probabilities."""

from __future__ import annotations

import torch

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.losses.selected_positions import max_logprob_difference
from tunesmith_torch.models.adapters import AdaptedModel

TOLERANCE_NATS = {torch.float32: 1e-2, torch.bfloat16: 1.0}
"""Largest accepted difference, in nats, between two computations of one log-probability.

In a model of 135M parameters rounding to bf16 causes 0.3, rounding to fp32 3e-5, and a row that
attends to another row 2.7. Over a base in 8 bits, activations are rounded to 8 bits in any compute
format: 0.4.
"""


def check_logprobs(adapted: AdaptedModel, *, packing: bool) -> None:
    """Check once, on the model itself, that the layout of rows does not change log-probabilities.

    Raises:
        EnvironmentProblem: they differ by more than :data:`TOLERANCE_NATS`.
    """
    with adapted.autocast():
        nats = max_logprob_difference(adapted.model, packed=packing)
    eight_bits = getattr(adapted.base.model, "is_loaded_in_8bit", False)
    if nats <= TOLERANCE_NATS[torch.bfloat16 if eight_bits else adapted.precision.dtype]:
        return
    hint = "set packing = false" if packing else "this architecture cannot be trained here yet"
    raise EnvironmentProblem(
        f"technique: log-probabilities of {type(adapted.base.model).__name__} must not depend on "
        f"the layout of rows, got a difference of {nats:.2g} nats",
        hint=hint,
    )
