"""LoRA: next tokens, low-rank adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.models.adapters import Adapted, adapt_lora
from tunesmith_torch.models.loading import Base
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.training.sft import supervise


class Lora:
    """Low-rank updates move; the base stays as it is."""

    def __init__(self, options: LoraOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train on next tokens and commit an adapter folder."""

        def adapt(base: Base, precision: Precision) -> Adapted:
            return adapt_lora(base, precision, self.options, job.seed)

        return supervise(job, adapt)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """The base model with the trained adapter, or without."""
        return open_text_model(model, artifact, device=device, options=self.options)
