"""LoRA fine-tuning on next tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.models.adapters import AdaptedModel, adapt_lora
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.training.sft import train_supervised


class Lora:
    """Supervised fine-tuning of low-rank adapters; base weights stay frozen."""

    def __init__(self, options: LoraOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train on next tokens and write an adapter folder."""

        def adapt(base: LoadedBase, precision: Precision) -> AdaptedModel:
            return adapt_lora(base, precision, self.options, job.seed)

        return train_supervised(job, adapt)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the base model with the trained adapter, or without one if ``artifact`` is None."""
        return open_text_model(model, artifact, device=device, options=self.options)
