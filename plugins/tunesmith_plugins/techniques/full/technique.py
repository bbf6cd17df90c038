"""Train with supervised fine-tuning of every weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train


class FullFineTuning:
    """Full fine-tuning: trains every weight on the demonstrations."""

    def __init__(self, options: FullOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train all weights and write a model folder."""
        return train(job, SupervisedTask())

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the trained model, or the base model if ``artifact`` is None."""
        return open_trained_model(model, artifact, device=device, options=self.options)
