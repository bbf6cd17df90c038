"""What TRL's trainers are asked and told: the loop's own prompts, and its own rewards.

Shapes: A answers, of a batch or of one prompt.
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
from tunesmith_torch.generation.sequences import Generated
from tunesmith_torch.losses import policy_gradient
from tunesmith_torch.options.rlhf import PolicyStage
from tunesmith_torch.rlhf.policy_objective import PolicyLoop
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.training.loop import Counts


class PromptTokenizer(PreTrainedTokenizerBase):  # type: ignore[misc]
    """A tokenizer that knows prompts by their number, and so gives TRL the loop's very ids.

    What people wrote can look like control tokens, and a rendered prompt has its BOS already:
    tokenising its text once more would not come to the same ids.
    """

    def __init__(self, template: Template, prompts: Sequence[Prompt]) -> None:
        self._own = template.tokenizer
        end = self._own.convert_ids_to_tokens(min(template.end_ids))
        super().__init__(eos_token=end, pad_token=self._own.pad_token or end)
        self.prompts, self.end_ids = prompts, sorted(template.end_ids)
        self.ids = template.prompts_ids(prompts)

    def __call__(self, text: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:  # type: ignore[override]
        return {"input_ids": [self.ids[int(name)] for name in text]}

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return self._own.convert_tokens_to_ids(tokens)

    def batch_decode(self, rows: Any, **settings: Any) -> list[str]:
        return cast("list[str]", self._own.batch_decode(rows, **settings))


@dataclass
class Judging:
    """TRL's reward function: the stage's own rewards, and figures of each rollout."""

    loop: PolicyLoop
    asked: PromptTokenizer
    reward: Reward
    options: PolicyStage
    counts: Counts = field(default_factory=lambda: Counts(0, 0, 1))
    mean: float = 0.0
    """Of the rewards of the last rollout."""
    spread: float = 0.0
    """Between the best and the worst answer to a prompt, on average."""

    def rewards(
        self, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any
    ) -> list[float | None]:
        """What each answer earned in TRL's terms; None where it is not learned from."""
        ends = self.asked.end_ids
        said = [
            Generated(tuple(ids), "end" if ids[-1] in ends else "limit", ())
            for ids in completion_ids
        ]
        texts = [self.loop.actor.text(answer) for answer in said]
        asked = [self.asked.prompts[int(name)] for name in prompts]
        earned_A = torch.tensor(list(self.reward.rewards(asked, texts)), dtype=torch.float32)
        kept_A = torch.tensor(
            [not self.options.mask_truncated_completions or a.stopped == "end" for a in said]
        )
        self.mean = float(earned_A.mean())
        ranges = [float(x.max() - x.min()) for x in torch.split(earned_A, self.options.num_generations)]
        self.spread = sum(ranges) / len(ranges)
        given = sum(len(self.asked.ids[int(name)]) for name in prompts)
        trained = sum(len(a.ids) for a, kept in zip(said, kept_A.tolist(), strict=True) if kept)
        self.counts = Counts(given + sum(len(answer.ids) for answer in said), trained, 1)
        if self.options.algorithm == "rloo":
            pairs = zip(earned_A.tolist(), kept_A.tolist(), strict=True)
            return [value if kept else None for value, kept in pairs]
        groups = zip(
            *(torch.split(x, self.options.num_generations) for x in (earned_A, kept_A)), strict=True
        )
        return [x for earned, kept in groups for x in _standardised(earned, kept).tolist()]


def _standardised(earned_A: Tensor, kept_A: Tensor) -> Tensor:
    """Advantages of a prompt's answers; 0, which is their mean, where one is not learned from."""
    advantage_A = torch.zeros_like(earned_A)
    if kept_A.any():
        advantage_A[kept_A] = policy_gradient.grpo(earned_A[kept_A])
    return advantage_A
