"""Options of ``full``."""

from __future__ import annotations

from tunesmith_torch.options.training import SupervisedOptions


class FullOptions(SupervisedOptions):
    """Options of full fine-tuning: the same as for all supervised training."""
