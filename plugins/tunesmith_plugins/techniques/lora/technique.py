"""Train LoRA adapters with supervised fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train


class Lora:
    """LoRA: trains low-rank adapters on the demonstrations, with frozen base weights."""

    def __init__(self, options: LoraOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train the adapters and write an adapter folder."""
        return train(job, SupervisedTask())

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the base model, with the trained adapter unless ``artifact`` is None."""
        return open_trained_model(model, artifact, device=device, options=self.options)
