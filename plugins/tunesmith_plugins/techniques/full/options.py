"""The options of ``full``."""

from __future__ import annotations

from tunesmith_torch.options.training import FitOptions


class FullOptions(FitOptions):
    """Options of full fine-tuning: those of the training loop."""
