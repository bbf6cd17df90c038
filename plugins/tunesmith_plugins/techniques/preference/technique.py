"""Train with preference optimization on pairs of answers, with adapters or all weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.preference.task import PreferenceTask
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.training.trainer import train


class PreferenceTuning:
    """Makes chosen answers more likely and rejected answers less likely."""

    def __init__(self, options: PreferenceOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train on pairs or labeled answers, and write an adapter folder or a model folder."""
        return train(job, PreferenceTask())

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the trained policy, or the base model if ``artifact`` is None."""
        return open_trained_model(model, artifact, device=device, options=self.options)
