"""Preferences: pairs of answers, adapters or all weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.models.adapter_stack import Start, base_folder, quantization_of
from tunesmith_torch.options.preference import PreferenceOptions
from tunesmith_torch.preference.train import prefer


class Preferences:
    """A policy moves towards the chosen answers and away from the rejected ones."""

    def __init__(self, options: PreferenceOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train on pairs and commit an adapter or a model folder."""
        return prefer(job)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """The trained policy, or the base model.

        An adapter that was trained over a fully fine-tuned model is put on that model.
        """
        if artifact is not None and self.options.start is not None:
            model = base_folder(model, Start.find(self.options.start))
        stored = quantization_of(self.options)
        return open_text_model(
            model, artifact, device=device, options=self.options, quantization=stored
        )
