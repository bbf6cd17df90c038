"""Define the options of the ``full`` technique."""

from __future__ import annotations

from tunesmith_torch.options.training import SupervisedOptions


class FullOptions(SupervisedOptions):
    """Options of full fine-tuning: the common options of supervised training."""
