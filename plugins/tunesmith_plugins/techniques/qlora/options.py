"""Define the options of the ``qlora`` technique."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tunesmith_torch.options.adaptation import (
    Adaptation,
    AdapterOptions,
    QuantizationOptions,
)
from tunesmith_torch.options.training import CHECKPOINTING_HELP, AutoBool, SupervisedOptions


class QloraOptions(SupervisedOptions):
    """Options of QLoRA for supervised training, the adapters and the quantized base model."""

    DEFAULT_RATE: ClassVar[float] = 2e-4
    """Adapters need about ten times the rate of full fine-tuning."""

    gradient_checkpointing: AutoBool = Field(
        default="auto", validate_default=True, description=CHECKPOINTING_HELP
    )
    adapter: AdapterOptions = Field(default_factory=AdapterOptions, description="The adapters.")
    quantization: QuantizationOptions = Field(
        default_factory=QuantizationOptions, description="Quantization of the base model."
    )

    @property
    def adaptation(self) -> Adaptation:
        """The adaptation of the base model: LoRA adapters on quantized weights."""
        return Adaptation("qlora", self.adapter, self.quantization)
