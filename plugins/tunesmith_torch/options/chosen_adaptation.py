"""Options of techniques with the option ``adapt``, which chooses the weights to train."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from tunesmith_torch.options.adaptation import (
    Adaptation,
    AdapterOptions,
    Method,
    QuantizationOptions,
)
from tunesmith_torch.options.training import TrainingOptions

__all__ = ["ChosenAdaptationOptions"]

ADAPT_HELP = (
    "Train LoRA adapters (lora), LoRA adapters on a quantized base model (qlora), or all weights "
    "(full)."
)


class ChosenAdaptationOptions(TrainingOptions):
    """Training options with ``adapt``, which chooses the weights to train."""

    FULL_LEARNING_RATE: ClassVar[float | None] = None
    """Default ``learning_rate`` if all weights are trained; None: the same as for adapters."""

    adapt: Method = Field(default="lora", description=ADAPT_HELP)
    adapter: AdapterOptions = Field(
        default_factory=AdapterOptions, description="lora and qlora: options of the adapters."
    )
    quantization: QuantizationOptions = Field(
        default_factory=QuantizationOptions, description="qlora: how the base model is stored."
    )

    @property
    def adaptation(self) -> Adaptation:
        """The weights to train, and how the base model is stored."""
        if self.adapt == "full":
            return Adaptation("full")
        quantization = self.quantization if self.adapt == "qlora" else None
        return Adaptation(self.adapt, self.adapter, quantization)

    @model_validator(mode="before")
    @classmethod
    def _default_learning_rate(cls, table: Any) -> Any:
        is_full = isinstance(table, dict) and table.get("adapt") == "full"
        if is_full and cls.FULL_LEARNING_RATE is not None and "learning_rate" not in table:
            return {**table, "learning_rate": cls.FULL_LEARNING_RATE}
        return table

    @model_validator(mode="after")
    def _refuse_other_reference(self) -> ChosenAdaptationOptions:
        if self.adapter.dropout and not self.USES_DROPOUT:
            raise ValueError(
                "`adapter.dropout` must be 0: the loss compares the policy with log-probabilities "
                "computed without dropout"
            )
        if self.adapter.changes_base and not self.USES_DROPOUT:
            raise ValueError(
                f'`adapter.init` = "{self.adapter.init}" changes the base model, but the loss '
                "compares the policy with it"
            )
        return self

    @model_validator(mode="after")
    def _refuse_unused_tables(self) -> ChosenAdaptationOptions:
        if self.adapt == "full" and self.adapter != AdapterOptions():
            raise ValueError('`adapter` only has an effect with adapt = "lora" or "qlora"')
        if self.adapt != "qlora" and self.quantization != QuantizationOptions():
            raise ValueError('`quantization` only has an effect with adapt = "qlora"')
        return self
