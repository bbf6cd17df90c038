"""Train a policy on rewards with one of TRL's trainers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith.errors import UsageError
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.rlhf.reward_source import RewardModelSource, check_reward_functions
from tunesmith_torch.runtime.device import pick_device
from tunesmith_torch.training.trainer import train
from tunesmith_trl.options import TrlOptions
from tunesmith_trl.task import TrlTask


class TrlTechnique:
    """Trains LoRA adapters on frozen base weights with GRPO or RLOO."""

    def __init__(self, options: TrlOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train on rewards, and write an adapter folder.

        Raises:
            UsageError: vLLM is requested without a CUDA GPU, or a reward function or the reward
                model does not exist.
            DataError: no prompt can be trained on.
            EnvironmentProblem: TRL cannot be imported, or would not train on the policy's device.
            TrainingError: a reward or a gradient is not finite.
        """
        options: TrlOptions = job.config
        _check_vllm_device(options, pick_device(job.device).type)
        policy = options.policy_options
        for record in job.train[:1]:
            check_reward_functions(policy, record)
        task = TrlTask(_find_reward_model(options), vllm=options.vllm)
        return train(replace(job, config=policy), task)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the base model, with the trained adapter unless ``artifact`` is None."""
        return open_trained_model(model, artifact, device=device, options=self.options)


def _check_vllm_device(options: TrlOptions, device: str) -> None:
    if options.vllm and device != "cuda":
        raise UsageError(
            f"technique.vllm: vLLM generates on the policy's CUDA GPU, but this run uses {device}",
            hint="set vllm = false, or run on a machine with a CUDA GPU",
        )


def _find_reward_model(options: TrlOptions) -> RewardModelSource | None:
    if options.reward_model is None:
        return None
    found = InitialModel.find(options.reward_model, "reward", "technique.reward_model")
    return RewardModelSource(found.path, quantization=None)
