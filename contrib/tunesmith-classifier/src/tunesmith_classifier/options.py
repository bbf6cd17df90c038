"""Options of ``classifier``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tunesmith_torch.options.adaptation import Adaptation, AdapterOptions
from tunesmith_torch.options.training import TrainingOptions, ValidationOptions


class ClassifierOptions(TrainingOptions):
    """Options of ``classifier``: those of training, and what is trained besides the head."""

    STARTS_FROM_BASE: ClassVar[bool] = True

    learning_rate: float = Field(
        2e-4, gt=0, le=1, description="Peak learning rate. Without adapters, use about 1e-2."
    )
    adapt: Literal["lora", "head"] = Field(
        "lora", description="Train LoRA adapters and the head, or the head alone."
    )
    adapter: AdapterOptions = Field(
        default_factory=AdapterOptions, description='The adapters, with adapt = "lora".'
    )
    validation: ValidationOptions = Field(
        default_factory=ValidationOptions,
        description="Evaluations of the validation loss, early stopping, best checkpoint.",
    )

    @property
    def adaptation(self) -> Adaptation:
        """LoRA adapters; without them, the smallest adapters for estimates."""
        return Adaptation("lora", self.adapter if self.adapt == "lora" else AdapterOptions(rank=1))

    @model_validator(mode="after")
    def _refuse_unused(self) -> ClassifierOptions:
        if self.adapt == "head" and self.adapter != AdapterOptions():
            raise ValueError('`adapter` only has an effect with adapt = "lora"')
        if self.validation.by != ValidationOptions().by:
            raise ValueError('validation.by must be "loss" for a classifier')
        return self
