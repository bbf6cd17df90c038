"""What a policy says to prompts, and what it earns for it."""

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
from tunesmith_torch.generation.sequences import Generated
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.options.policy import PolicyLoopOptions
from tunesmith_torch.prefix.completion_groups import Group
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.malloc import give_back


class Reward(Protocol):
    """What judges answers."""

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One number for each completion, higher is better."""
        ...


@dataclass
class Rollout:
    """What the policy said to the prompts of one batch, and what it earned."""

    groups: list[Group]
    said: list[list[Generated]]
    rewards: list[Tensor]
    answers_in_batch: int
    """Of all ranks."""

    def kept(self, row: int, mask_truncated_completions: bool) -> Tensor:
        """Which of a prompt's answers are learned from."""
        ended = [not mask_truncated_completions or g.stopped == "end" for g in self.said[row]]
        return torch.tensor(ended)


class Actor:
    """A policy that answers its prompts, and is judged."""

    def __init__(
        self,
        policy: Adapted,
        template: Template,
        prompts: Sequence[Prompt],
        reward: Reward,
        options: PolicyLoopOptions,
    ) -> None:
        self._policy, self._template = policy, template
        self._reward, self._options = reward, options
        self._prompts, self._prompt_ids = prompts, template.prompts_ids(prompts)
        self._device = policy.base.model.device

    def __len__(self) -> int:
        return len(self._prompts)

    def rollout(self, rows: Sequence[int]) -> Rollout:
        """Answer every prompt several times, and let the answers be judged."""
        self._give_back()
        samples = self._options.num_generations
        seed = distributed.from_rank_0(lambda: int(torch.randint(2**31, ())))
        asked = [self._prompt_ids[row] for row in rows for _ in range(samples)]
        with self._policy.arithmetic():
            flat = generate(
                self._policy.model,
                asked,
                limit=self._options.max_new_tokens,
                end_ids=self._template.end_ids,
                sampler=Sampler(
                    temperature=self._options.temperature,
                    seed=seed,
                    # The row's own, so that its answers do not depend on what this rank has beside.
                    streams=tuple(row * samples + i for row in rows for i in range(samples)),
                ),
            )
        texts = [self.text(answer) for answer in flat]
        prompts = [self._prompts[row] for row in rows for _ in range(samples)]
        earned = torch.tensor(list(self._reward.rewards(prompts, texts)), dtype=torch.float32)
        said = [flat[i : i + samples] for i in range(0, len(flat), samples)]
        groups = [
            Group(self._prompt_ids[row], tuple(answer.ids for answer in answers))
            for row, answers in zip(rows, said, strict=True)
        ]
        rewards = list(earned.view(len(rows), samples))
        everybodys = sum(distributed.gathered(len(flat)))
        self._give_back()
        return Rollout(groups, said, rewards, everybodys)

    def _give_back(self) -> None:
        """What answering takes and what learning takes fit badly into each other's gaps."""
        if self._device.type == "cpu":
            give_back()

    def answers(self, prompts: Sequence[Prompt]) -> list[str]:
        """The policy's most likely answers, word by word; nothing is drawn and nothing learned."""
        with self._policy.arithmetic():
            said = generate(
                self._policy.model,
                self._template.prompts_ids(prompts),
                limit=self._options.max_new_tokens,
                end_ids=self._template.end_ids,
            )
        return [self.text(answer) for answer in said]

    def text(self, answer: Generated) -> str:
        """What an answer says, as it is judged."""
        ids = list(answer.ids[:-1] if answer.stopped == "end" else answer.ids)
        text: str = self._template.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
