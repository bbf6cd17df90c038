"""RLHF: three stages, each with an artifact of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.models.adapter_stack import base_of_adapter, quantization_of
from tunesmith_torch.models.artifacts import artifact_format
from tunesmith_torch.options.preference import PolicyOptions
from tunesmith_torch.options.rlhf import RlhfOptions
from tunesmith_torch.rlhf.stages import train_stages


class Rlhf:
    """A policy is shown what to say, then learns what people prefer."""

    def __init__(self, options: RlhfOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train the stages and commit what each leaves behind."""
        return train_stages(job)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """The policy, the model of an earlier stage, or the base model."""
        if artifact is not None and artifact_format(artifact) == "adapter":
            model = base_of_adapter(artifact, model)
        options = self._stage_of(artifact)
        stored = quantization_of(options)
        return open_text_model(model, artifact, device=device, options=options, quantization=stored)

    def _stage_of(self, artifact: Path | None) -> PolicyOptions:
        """The options of the stage that left the artifact, by the folder that it lies in."""
        stages: dict[str, PolicyOptions] = {
            "supervised": self.options.supervised,
            "reward": self.options.reward,
            "policy": self.options.policy,
        }
        trained = [stage for stage in stages.values() if not stage.skip]  # type: ignore[attr-defined]
        return stages.get(artifact.parent.name if artifact else "", trained[-1])
