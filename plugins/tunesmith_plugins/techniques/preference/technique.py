"""Preference optimization on pairs of answers, with adapters or all weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.models.adapter_stack import InitialModel, base_folder, policy_quantization
from tunesmith_torch.options.preference import PreferenceOptions
from tunesmith_torch.preference.train import train_preferences


class PreferenceTuning:
    """Makes chosen answers likelier and rejected answers less likely."""

    def __init__(self, options: PreferenceOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train on pairs and write an adapter or a model folder."""
        return train_preferences(job)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the trained policy, or the base model if ``artifact`` is None.

        An adapter that was trained on a fully fine-tuned model is loaded onto that model.
        """
        if artifact is not None and self.options.initial_model is not None:
            model = base_folder(model, InitialModel.find(self.options.initial_model))
        quantization = policy_quantization(self.options)
        return open_text_model(
            model, artifact, device=device, options=self.options, quantization=quantization
        )
