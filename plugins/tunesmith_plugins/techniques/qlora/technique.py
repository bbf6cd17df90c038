"""Train low-rank adapters on a quantized base model with supervised fine-tuning (QLoRA)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train


class Qlora:
    """QLoRA: trains low-rank adapters in fp32 on a frozen, quantized base model."""

    def __init__(self, options: QloraOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train the adapters and write an adapter folder."""
        return train(job, SupervisedTask())

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the quantized base model with the adapter, or without it if ``artifact`` is None."""
        return open_trained_model(model, artifact, device=device, options=self.options)
