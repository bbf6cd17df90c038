"""Full fine-tuning: next tokens, all weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.models.adapters import adapt_all
from tunesmith_torch.training.sft import supervise


class Full:
    """Every weight moves."""

    def __init__(self, options: FullOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train on next tokens and commit a model folder."""
        return supervise(job, adapt_all)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """The trained model, or the base."""
        return open_text_model(model, artifact, device=device, options=self.options)
