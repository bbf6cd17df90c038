"""Options of ``lora``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from tunesmith_torch.options.adaptation import EARLIER_ADAPTER_KEYS, Adaptation, AdapterOptions
from tunesmith_torch.options.training import SupervisedOptions


class LoraOptions(SupervisedOptions):
    """Options of LoRA: supervised training, and the adapters."""

    EARLIER: ClassVar[Mapping[str, str]] = EARLIER_ADAPTER_KEYS

    learning_rate: float = Field(
        default=2e-4,
        gt=0,
        le=1,
        description=(
            "Peak learning rate; adapters need about ten times the rate of full fine-tuning."
        ),
    )
    adapter: AdapterOptions = Field(default_factory=AdapterOptions, description="The adapters.")

    @property
    def adaptation(self) -> Adaptation:
        """Adapters are trained, over a base model that is not quantized."""
        return Adaptation("lora", self.adapter)
