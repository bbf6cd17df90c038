"""Reward models: one number for an answer, learned from pairs (Bradley and Terry 1952).

Shapes: B pairs, A = 2 B answers, D width.

The number is a linear function of the hidden state at an answer's *last token*, which is the end
token. The layouts of :mod:`tunesmith_torch.prefix.completion_groups` give the states from which tokens are guessed,
so every answer gets one token more that nobody sees: the state from which *it* would be guessed is
that of the end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import IntegrityError
from tunesmith.records import Prompt
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapter_stack import load_policy_base, one_adapter
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.preference import RewardOptions
from tunesmith_torch.prefix.completion_groups import (
    Answers,
    Group,
    Layout,
    answer_hidden,
    with_ends,
)
from tunesmith_torch.prefix.prefix_check import can_share
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.runtime.eval_mode import evaluating
from tunesmith_torch.training.auto_batch import settle
from tunesmith_torch.training.loop import Counts, fit
from tunesmith_torch.training.pair_setup import Ready

HEAD = "reward_head.safetensors"
CARD = """---
tags: [tunesmith, reward-model]
---

A reward model: the weights beside this file, and `reward_head.safetensors`, whose vector is
multiplied with the last layer's hidden state (after the final norm) at an answer's end token.
"""


class RewardNet(nn.Module):
    """A language model with a head of one number. Its own output head is not used."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(width, 1, bias=False, dtype=torch.float32)

    def rewards(self, answers: Answers) -> Tensor:
        """The reward of each answer that :func:`with_ends` laid out, [A]."""
        hidden_AD = answer_hidden(self.model, answers)
        with torch.autocast(hidden_AD.device.type, enabled=False):
            rewards_A1: Tensor = self.head(hidden_AD.float())
        return rewards_A1[:, 0]

    def read_head(self, artifact: Path) -> None:
        """Take over the head that lies in an artifact.

        Raises:
            IntegrityError: there is none, or one of another width.
        """
        if not (artifact / HEAD).is_file():
            raise IntegrityError(f"{artifact}: no {HEAD}, so this is not a reward model")
        head_D = load_file(artifact / HEAD)["head"]
        if head_D.shape[0] != self.head.in_features:
            raise IntegrityError(f"{artifact}: the head is {head_D.shape[0]} wide, the model not")
        with torch.no_grad():
            self.head.weight.copy_(head_D[None])


def bradley_terry(
    chosen_B: Tensor, rejected_B: Tensor, margin: float, center_rewards_coefficient: float
) -> Tensor:
    """``-log sigmoid(chosen - rejected - margin) + center_rewards_coefficient (chosen + rejected)**2``, [B].

    The second term picks one of the many solutions that differ by a constant (Eisenstein et al.
    2023, section 2).
    """
    loss_B = -logsigmoid(chosen_B - rejected_B - margin)
    return loss_B + center_rewards_coefficient * (chosen_B + rejected_B) ** 2


class Ranking:
    """Bradley-Terry as an objective; a batch divides the sum by its pairs."""

    def __init__(self, ready: Ready, net: RewardNet, options: RewardOptions) -> None:
        self._ready = ready
        self._net = net
        self._options = options
        self._device = ready.adapted.base.model.device
        self._rewards: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._ready.pairs)

    def counts(self, rows: Sequence[int]) -> Counts:
        """Tokens of the pairs; the loss is divided by the pairs."""
        return self._ready.counts(rows)

    def micro_batches(self, rows: Sequence[int], budget: int) -> list[Answers]:
        """The pairs laid out. Called once at the start of each batch."""
        self._rewards = []
        return list(with_ends(self._ready.layout, self._ready.pairs, rows, budget))

    def loss(self, micro_batch: Answers) -> Tensor:
        """The loss summed over the micro-batch's pairs."""
        rewards_A = self._net.rewards(micro_batch.to(self._device))
        self._rewards.append(rewards_A.detach().view(-1, 2))
        options = self._options
        terms = options.margin, options.center_rewards_coefficient
        return bradley_terry(rewards_A[0::2], rewards_A[1::2], *terms).sum()

    def figures(self) -> dict[str, float]:
        """Accuracy and rewards of the last batch, means over its pairs."""
        rewards_B2 = torch.cat([torch.zeros(0, 2, device=self._device), *self._rewards])
        gap_B = rewards_B2[:, 0] - rewards_B2[:, 1]
        sums = {
            "accuracy": float((gap_B > 0).float().sum() + 0.5 * (gap_B == 0).float().sum()),
            "reward_margin": float(gap_B.sum()),
            "reward_mean": float(rewards_B2.sum()) / 2,
        }
        total = distributed.summed({**sums, "pairs": len(rewards_B2)})
        return {name: total[name] / total["pairs"] for name in sums}


@distributed.together
def train_reward(job: Job[Any]) -> Artifact:
    """Load, adapt, learn to rank, and commit weights and head.

    Raises:
        DataError: no pair can be learned from.
        TrainingError: see :func:`tunesmith_torch.training.loop.fit`.
    """
    job = settle(job)
    options: RewardOptions = job.config
    ready = Ready.of(job)
    device = ready.adapted.base.model.device
    width = ready.adapted.base.config.get_text_config().hidden_size
    torch.manual_seed(job.seed)
    net = RewardNet(ready.adapted.model, width)
    # Small rewards at first, whatever the width (Stiennon et al. 2020, appendix B).
    nn.init.normal_(net.head.weight, std=(width + 1) ** -0.5)
    net.to(device)
    adapted: Adapted = replace(ready.adapted, model=net)
    details = {
        "loss": "bradley-terry",
        "margin": options.margin,
        "center_rewards_coefficient": options.center_rewards_coefficient,
    }
    job.emit(replace(ready, adapted=adapted).announcement(job, details))
    fit(job, adapted, Ranking(ready, net, options), seed=job.seed)

    def beside(folder: Path) -> None:
        head_D = net.head.weight.detach()[0].float().cpu().contiguous()
        save_file({"head": head_D}, folder / HEAD)
        (folder / "README.md").write_text(CARD, encoding="utf-8")

    whole = one_adapter(ready.adapted)
    artifact = artifacts.save(ready.card_job(job), whole, ready.template, beside)
    job.emit(replace(ready.ending(job, artifact), answers=False))
    return artifact


@dataclass(frozen=True)
class RewardModel:
    """A reward model that is ready to judge, in eval mode."""

    net: RewardNet
    template: Template
    layout: Layout
    budget: int = 4096

    @classmethod
    def load(
        cls,
        model: Path,
        artifact: Path,
        device: torch.device,
        precision: Precision,
        *,
        packing: bool = True,
        quantization: Quantization | None = None,
    ) -> RewardModel:
        """Read what :func:`train_reward` wrote; ``model`` is the base under an adapter.

        Raises:
            IntegrityError: it has no head, or one of another width.
        """
        adapter = artifacts.artifact_format(artifact) == "adapter"
        folder = model if adapter else artifact
        base = load_policy_base(folder, device, precision, packing, quantization)
        inner = artifacts.attach_adapter(base, artifact) if adapter else base.model
        net = RewardNet(inner, base.config.get_text_config().hidden_size)
        net.read_head(artifact)
        net.to(device).eval().requires_grad_(False)
        layout = Layout(packing, packing and can_share(inner))
        return cls(net, Template.of(base.tokenizer), layout)

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """The reward of each completion after its prompt."""
        pairs = self.template.exchanges_ids(prompts, completions)
        rewards = self.rewards_of([Group(prompt, (answer,)) for prompt, answer in pairs])
        return [float(reward[0]) for reward in rewards]

    @torch.no_grad()
    def rewards_of(self, groups: Sequence[Group]) -> list[Tensor]:
        """The rewards of groups that are token ids already, one tensor for each group."""
        rewards: list[Tensor] = [torch.empty(0)] * len(groups)
        device = self.net.head.weight.device
        with evaluating(self.net):
            for cpu in with_ends(self.layout, groups, range(len(groups)), self.budget):
                found_A = self.net.rewards(cpu.to(device)).cpu()
                counts = [len(groups[row].answers) for row in cpu.groups]
                for row, part in zip(cpu.groups, torch.split(found_A, counts), strict=True):
                    rewards[row] = part
        return rewards
