"""Ask the loaded model whether packing and trimming leave its log-probabilities as they are."""

from __future__ import annotations

import torch

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.losses.selected_positions import disagreement
from tunesmith_torch.models.adapters import Adapted

ROUNDING = {torch.float32: 1e-2, torch.bfloat16: 1.0}
"""How many nats two ways to compute one log-probability may be apart. In a model of 135M parameters
rounding to bf16 makes 0.3, rounding to fp32 3e-5, and a row that hears another 2.7. Over a base in
8 bits activations are rounded to 8 bits too, whatever they are computed in: 0.4."""


def refuse_disagreement(adapted: Adapted, *, packing: bool) -> None:
    """Ask the model itself, once, whether packing and trimming leave its answers as they are.

    Raises:
        EnvironmentProblem: they do not.
    """
    with adapted.arithmetic():
        nats = disagreement(adapted.model, packed=packing)
    eight_bits = getattr(adapted.base.model, "is_loaded_in_8bit", False)
    if nats <= ROUNDING[torch.bfloat16 if eight_bits else adapted.precision.dtype]:
        return
    hint = "set packing = false" if packing else "this architecture cannot be trained here yet"
    raise EnvironmentProblem(
        f"technique: log-probabilities of {type(adapted.base.model).__name__} should not depend on "
        f"how rows are laid out, got {nats:.2g} nats apart",
        hint=hint,
    )
