"""Sample rollouts: a policy's completions for a batch of prompts, with their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tunesmith.records import Prompt
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.generation.sequences import GeneratedSequence
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.prefix.completion_groups import CompletionGroup
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.malloc import trim_heap

__all__ = ["Reward", "Rollout", "RolloutGenerator"]


class Reward(Protocol):
    """A source of rewards: a reward model, a function, or a weighted sum of several."""

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """Return one number per completion; higher is better."""
        ...


@dataclass
class Rollout:
    """The completions sampled for this rank's prompts of one batch, with their rewards."""

    groups: list[CompletionGroup]
    """Each prompt with its completions, as token ids."""
    completions: list[list[GeneratedSequence]]
    """The completions as sampled, with the log-probability of each token."""
    rewards: list[Tensor]
    """The rewards of each prompt's completions, [num_generations]."""
    completions_in_batch: int
    """Number of completions on all ranks."""

    def trained_mask(self, row: int, mask_truncated_completions: bool) -> Tensor:
        """Return a bool mask of the prompt's completions to train on, [num_generations]."""
        trained = [
            not mask_truncated_completions or completion.finish_reason == "stop"
            for completion in self.completions[row]
        ]
        return torch.tensor(trained)


class RolloutGenerator:
    """Samples completions from the policy and collects their rewards."""

    def __init__(
        self,
        policy: AdaptedModel,
        template: Template,
        prompts: Sequence[Prompt],
        reward: Reward,
        options: PolicyOptions,
    ) -> None:
        self._policy, self._template = policy, template
        self._reward, self._options = reward, options
        self._prompts, self._prompt_ids = prompts, template.encode_prompts(prompts)
        self._device = policy.base.model.device

    def __len__(self) -> int:
        return len(self._prompts)

    def generate_rollout(self, rows: Sequence[int]) -> Rollout:
        """Sample ``num_generations`` completions for each prompt and compute their rewards."""
        self._trim_heap()
        num_generations = self._options.generation.num_generations
        seed = distributed.broadcast_from_rank_0(lambda: int(torch.randint(2**31, ())))
        prompt_ids = [self._prompt_ids[row] for row in rows for _ in range(num_generations)]
        with self._policy.autocast():
            generated = generate(
                self._policy.model,
                prompt_ids,
                max_new_tokens=self._options.generation.max_new_tokens,
                end_ids=self._template.end_ids,
                sampler=Sampler(
                    temperature=self._options.generation.temperature,
                    seed=seed,
                    # One random stream per completion of each dataset row, so a prompt's
                    # completions do not depend on the other prompts of this rank.
                    streams=tuple(
                        row * num_generations + i for row in rows for i in range(num_generations)
                    ),
                ),
            )
        texts = [self.decode(completion) for completion in generated]
        prompts = [self._prompts[row] for row in rows for _ in range(num_generations)]
        rewards = torch.tensor(list(self._reward.rewards(prompts, texts)), dtype=torch.float32)
        completions = [
            generated[i : i + num_generations] for i in range(0, len(generated), num_generations)
        ]
        groups = [
            CompletionGroup(self._prompt_ids[row], tuple(completion.ids for completion in group))
            for row, group in zip(rows, completions, strict=True)
        ]
        rewards_by_prompt = list(rewards.view(len(rows), num_generations))
        completions_in_batch = sum(distributed.all_gather_object(len(generated)))
        self._trim_heap()
        return Rollout(groups, completions, rewards_by_prompt, completions_in_batch)

    def _trim_heap(self) -> None:
        """Return freed memory to the system between generation and training.

        The two allocate blocks of different sizes and cannot reuse each other's memory well.
        """
        if self._device.type == "cpu":
            trim_heap()

    def generate_greedy(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return each prompt's greedy completion; no random numbers are used."""
        with self._policy.autocast():
            generated = generate(
                self._policy.model,
                self._template.encode_prompts(prompts),
                max_new_tokens=self._options.generation.max_new_tokens,
                end_ids=self._template.end_ids,
            )
        return [self.decode(completion) for completion in generated]

    def decode(self, completion: GeneratedSequence) -> str:
        """Decode a completion to the text that rewards get, without its end token."""
        ended = completion.finish_reason == "stop"
        return self._template.decode_answer(completion.ids[:-1] if ended else completion.ids)
