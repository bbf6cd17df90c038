"""Define the options of the ``lora`` technique."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tunesmith_torch.options.adaptation import Adaptation, AdapterOptions
from tunesmith_torch.options.training import SupervisedOptions


class LoraOptions(SupervisedOptions):
    """Options of LoRA: options of supervised training, and options of the adapters."""

    DEFAULT_RATE: ClassVar[float] = 2e-4
    """Adapters need about ten times the rate of full fine-tuning."""

    adapter: AdapterOptions = Field(default_factory=AdapterOptions, description="The adapters.")

    @property
    def adaptation(self) -> Adaptation:
        """The adaptation of the base model: LoRA adapters without quantization."""
        return Adaptation("lora", self.adapter)
