"""QLoRA fine-tuning on next tokens: low-rank adapters on a quantized base model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.models.adapters import AdaptedModel, adapt_lora
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.models.quantization import Quantization, weight_bytes
from tunesmith_torch.options.training import QloraOptions
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.training.sft import train_supervised


class Qlora:
    """Supervised fine-tuning of fp32 low-rank adapters on a frozen, quantized base."""

    def __init__(self, options: QloraOptions) -> None:
        self.options = options
        self.quantization = Quantization.from_options(options)

    def train(self, job: Job[Any]) -> Artifact:
        """Train on next tokens and write an adapter folder."""

        def adapt(base: LoadedBase, precision: Precision) -> AdaptedModel:
            details = {"bits": self.options.bits, "base_bytes": weight_bytes(base.model)}
            adapted = adapt_lora(base, precision, self.options, job.seed)
            return replace(adapted, details={**adapted.details, **details})

        return train_supervised(job, adapt, self.quantization)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the quantized base, as in training, with the adapter or without one."""
        return open_text_model(
            model, artifact, device=device, options=self.options, quantization=self.quantization
        )
