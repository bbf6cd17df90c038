"""Options of ``full``."""

from __future__ import annotations

from tunesmith_torch.options.training import TrainingOptions


class FullOptions(TrainingOptions):
    """Options of full fine-tuning: those of the training loop."""
