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
            "The model that turns images into features. auto: the base model's own tower, "
            "or efficientnet-lite0 if the base model has none."
        ),
    )
    language: Literal["lora", "full", "frozen"] = Field(
        "lora",
        description=(
            "How the language model is trained. lora: adapters; full: all of its weights, with a "
            "learning rate of about 2e-5; frozen: not at all."
        ),
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
    train_tower: bool = Field(
        False,
        description=(
            "Train the tower. Its features then cannot be cached, so every step computes them "
            "again; false: it is frozen."
        ),
    )
    tower_rate: float = Field(
        0.1,
        gt=0,
        le=1000,
        description="Learning rate of the tower, as a multiple of `learning_rate`.",
    )
    adapter: AdapterOptions = Field(
        default_factory=AdapterOptions, description='The adapters, with language = "lora".'
    )

    quantization: QuantizationOptions | None = Field(
        None,
        description="Quantization of the frozen language model (QLoRA). Unset: not quantized.",
    )

    @property
    def adaptation(self) -> Adaptation:
        """The weights of the language model to train; none: the smallest adapters for estimates."""
        if self.language == "full":
            return Adaptation("full")
        adapter = self.adapter if self.language == "lora" else AdapterOptions(rank=1)
        return Adaptation("qlora" if self.quantization else "lora", adapter, self.quantization)

    @model_validator(mode="after")
    def _refuse_unsafe(self) -> VisionOptions:
        if self.language == "frozen" and not (self.train_projector or self.train_tower):
            raise ValueError(
                '`language` is "frozen", and `train_projector` and `train_tower` are false: '
                "nothing trains"
            )
        if self.language != "lora" and self.adapter != AdapterOptions():
            raise ValueError('`adapter` only has an effect with language = "lora"')
        if self.language == "full" and self.quantization:
            raise ValueError("`quantization` needs a frozen language model: use adapters")
        if self.truncate_prompts:
            raise ValueError("`truncate_prompts` could cut an image, so it must be false")
        if not self.micro_batch_tokens or not self.batch_size:
            raise ValueError('batches cannot be "auto" with images: give numbers')
        if self.validation.by != ValidationOptions().by:
            raise ValueError('validation.by must be "loss" for images')
        return self
