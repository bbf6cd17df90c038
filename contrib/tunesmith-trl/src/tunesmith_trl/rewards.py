"""Provide TRL's trainers with the prompts and rewards of the toolkit's own loop.

Shapes: C completions, in a batch or of one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tunesmith.records import Prompt
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.sequences import GeneratedSequence
from tunesmith_torch.losses import policy_gradient
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.rlhf.policy_objective import PolicyObjective
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.training.loop import BatchCounts


class PromptTokenizer(PreTrainedTokenizerBase):  # type: ignore[misc]
    """A tokenizer that takes prompts by index and returns the token ids of the toolkit's loop.

    Tokenizing a rendered prompt again could give different ids: user text may look like control
    tokens, and the rendered prompt already contains its BOS token.
    """

    def __init__(self, template: Template, prompts: Sequence[Prompt]) -> None:
        self._tokenizer = template.tokenizer
        end = self._tokenizer.convert_ids_to_tokens(min(template.end_ids))
        super().__init__(eos_token=end, pad_token=self._tokenizer.pad_token or end)
        self.prompts, self.end_ids = prompts, sorted(template.end_ids)
        self.ids = template.encode_prompts(prompts)

    def __call__(self, text: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:  # type: ignore[override]
        return {"input_ids": [self.ids[int(index)] for index in text]}

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return self._tokenizer.convert_tokens_to_ids(tokens)

    def batch_decode(self, rows: Any, **settings: Any) -> list[str]:
        return cast("list[str]", self._tokenizer.batch_decode(rows, **settings))


@dataclass
class TrlRewardFunction:
    """The policy's rewards as a TRL reward function, which also records metrics of each rollout."""

    objective: PolicyObjective
    prompt_tokenizer: PromptTokenizer
    reward: Reward
    options: PolicyOptions
    counts: BatchCounts = field(default_factory=lambda: BatchCounts(0, 0, 1))
    mean_reward: float = 0.0
    """Mean reward of the last rollout."""
    reward_spread: float = 0.0
    """Range of rewards among the completions of a prompt, averaged over the last rollout."""

    def rewards(
        self, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any
    ) -> list[float | None]:
        """Return the reward of each completion for TRL, or None to exclude a completion.

        For GRPO, the rewards are the finished advantages. See :mod:`tunesmith_trl.trainer`.
        """
        end_ids = self.prompt_tokenizer.end_ids
        completions = [
            GeneratedSequence(tuple(ids), "stop" if ids[-1] in end_ids else "length", ())
            for ids in completion_ids
        ]
        indices = [int(prompt) for prompt in prompts]
        texts = [self.objective.rollout_generator.decode(c) for c in completions]
        own_prompts = [self.prompt_tokenizer.prompts[index] for index in indices]
        rewards_C = torch.tensor(list(self.reward.rewards(own_prompts, texts)), dtype=torch.float32)
        mask_truncated = self.options.loss.mask_truncated_completions
        trained_C = torch.tensor(
            [not mask_truncated or c.finish_reason == "stop" for c in completions]
        )
        num_generations = self.options.generation.num_generations
        self.mean_reward = float(rewards_C.mean())
        ranges = [float(r_G.max() - r_G.min()) for r_G in torch.split(rewards_C, num_generations)]
        self.reward_spread = sum(ranges) / len(ranges)
        prompt_tokens = sum(len(self.prompt_tokenizer.ids[index]) for index in indices)
        trained_tokens = sum(
            len(c.ids)
            for c, trained in zip(completions, trained_C.tolist(), strict=True)
            if trained
        )
        tokens = prompt_tokens + sum(len(c.ids) for c in completions)
        self.counts = BatchCounts(tokens, trained_tokens, 1)
        if self.options.algorithm == "rloo":
            pairs = zip(rewards_C.tolist(), trained_C.tolist(), strict=True)
            return [reward if trained else None for reward, trained in pairs]
        groups = zip(
            torch.split(rewards_C, num_generations),
            torch.split(trained_C, num_generations),
            strict=True,
        )
        return [x for group in groups for x in _standardized_rewards(*group).tolist()]


def _standardized_rewards(rewards_C: Tensor, trained_C: Tensor) -> Tensor:
    """Return GRPO's advantages of a prompt's completions, or 0 (the mean) for untrained ones."""
    advantages_C = torch.zeros_like(rewards_C)
    if trained_C.any():
        advantages_C[trained_C] = policy_gradient.grpo_advantages(rewards_C[trained_C])
    return advantages_C
