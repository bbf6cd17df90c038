"""Full fine-tuning on next tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.models.adapters import adapt_full
from tunesmith_torch.training.sft import train_supervised


class FullFineTuning:
    """Supervised fine-tuning of all weights."""

    def __init__(self, options: FullOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train on next tokens and write a model folder."""
        return train_supervised(job, adapt_full)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the trained model, or the base model if ``artifact`` is None."""
        return open_text_model(model, artifact, device=device, options=self.options)
