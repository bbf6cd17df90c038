"""Technique ``peft``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_peft.hidden_terms import build_additions
from tunesmith_peft.options import PeftOptions
from tunesmith_peft.task import build_task
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.training.trainer import train

__all__ = ["Peft"]


class Peft:
    """Trains an adapter of a method of PEFT; base weights stay frozen."""

    def __init__(self, options: PeftOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train the adapter and write an adapter folder."""
        task = build_task(job.config)
        own = build_additions(task.method, job.config)
        return train(replace(job, additions=(*job.additions, *own)), task)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the base model with the trained adapter, or without one if ``artifact`` is None."""
        return open_trained_model(model, artifact, device=device, options=self.options)
