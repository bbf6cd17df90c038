"""Train with RLHF in three stages, each with its own artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_plugins.techniques.rlhf.stages import train_stages
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.models.artifacts import detect_artifact_format
from tunesmith_torch.models.initial_model import find_adapter_base
from tunesmith_torch.options.training import TrainingOptions


class Rlhf:
    """RLHF: supervised fine-tuning, a reward model, and policy optimization against it."""

    def __init__(self, options: RlhfOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train the stages and write the artifact of each."""
        return train_stages(job)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the policy, the model of an earlier stage, or the base model."""
        if artifact is not None and detect_artifact_format(artifact) == "adapter":
            model = find_adapter_base(artifact, model)
        options = self._stage_options(artifact).model_copy(update={"initial_model": None})
        return open_trained_model(model, artifact, device=device, options=options)

    def _stage_options(self, artifact: Path | None) -> TrainingOptions:
        """Return the options of the stage that wrote the artifact, identified by its folder name.

        If the folder is not named after a stage, return the options of the last trained stage.
        """
        options = self.options
        stages = {
            "supervised": options.supervised,
            "reward": options.reward,
            "policy": options.policy,
        }
        trained = [stage for stage in stages.values() if not stage.skip]  # type: ignore[attr-defined]
        return stages.get(artifact.parent.name if artifact else "", trained[-1])
