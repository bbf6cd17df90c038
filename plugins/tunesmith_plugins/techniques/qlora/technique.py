"""QLoRA fine-tuning on next tokens: low-rank adapters on a quantized base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train


class Qlora:
    """Supervised fine-tuning of fp32 low-rank adapters on a frozen, quantized base."""

    def __init__(self, options: QloraOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train on next tokens and write an adapter folder."""
        return train(job, SupervisedTask())

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the quantized base, as in training, with the adapter or without one."""
        return open_trained_model(model, artifact, device=device, options=self.options)
