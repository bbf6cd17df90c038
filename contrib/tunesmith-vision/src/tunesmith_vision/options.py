"""Options of ``vision``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tunesmith_torch.options.adaptation import Adaptation, AdapterOptions, QuantizationOptions
from tunesmith_torch.options.training import SupervisedOptions, ValidationOptions

__all__ = ["VisionOptions"]


class VisionOptions(SupervisedOptions):
    """Options of ``vision``: those of supervised training, and which parts of the model train."""

    STARTS_FROM_BASE: ClassVar[bool] = True

    learning_rate: float = Field(
        2e-4, gt=0, le=1, description="Peak learning rate of the adapters, reached after warm-up."
    )
    tower: Literal["auto", "efficientnet-lite0"] = Field(
        "auto",
        description=(
            "The frozen model that turns images into features. auto: the base model's own tower, "
            "or efficientnet-lite0 if the base model has none."
        ),
    )
    train_language: bool = Field(
        True, description="Train LoRA adapters on the language model; false: its weights are kept."
    )
    train_projector: bool = Field(
        True,
        description="Train the projector, which turns features into embeddings; false: it is kept.",
    )
    projector_rate: float = Field(
        5.0,
        gt=0,
        le=1000,
        description="Learning rate of the projector, as a multiple of `learning_rate`.",
    )
    adapter: AdapterOptions = Field(
        default_factory=AdapterOptions, description="The adapters, with train_language = true."
    )

    quantization: QuantizationOptions | None = Field(
        None,
        description="Quantization of the frozen language model (QLoRA). Unset: not quantized.",
    )

    @property
    def adaptation(self) -> Adaptation:
        """LoRA adapters; without them, the smallest adapters for estimates."""
        adapter = self.adapter if self.train_language else AdapterOptions(rank=1)
        return Adaptation("qlora" if self.quantization else "lora", adapter, self.quantization)

    @model_validator(mode="after")
    def _refuse_unsafe(self) -> VisionOptions:
        if not (self.train_language or self.train_projector):
            raise ValueError("`train_language` and `train_projector` are false: nothing trains")
        if not self.train_language and self.adapter != AdapterOptions():
            raise ValueError("`adapter` only has an effect with train_language = true")
        if self.truncate_prompts:
            raise ValueError("`truncate_prompts` could cut an image, so it must be false")
        if not self.micro_batch_tokens or not self.batch_size:
            raise ValueError('batches cannot be "auto" with images: give numbers')
        if self.validation.by != ValidationOptions().by:
            raise ValueError('validation.by must be "loss" for images')
        return self
