"""Train and load reward models, which give each completion a number and learn from pairs.

Shapes: B pairs, C = 2 B completions, D width of the model.

The model of Bradley and Terry (1952): the chosen completion wins with the probability
``sigmoid(reward_chosen - reward_rejected)``. Training maximizes the likelihood of the choices.

The reward is a linear function of the hidden state at a completion's *last token*, its end token.
The layouts of :mod:`tunesmith_torch.prefix.completion_groups` return the hidden states that
*predict* a token, one position earlier. So each completion gets one more token, which no loss uses;
the state that would predict it is the one at the end token::

    tokens     p0   p1   y0   y1   END   (extra)
    states     h0   h1   h2   h3   h4
                                   |
                                   h4 predicts (extra), and holds the reward
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from tunesmith.errors import IntegrityError
from tunesmith.records import Prompt
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.loading import context_length, load_tokenizer
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.preference import RewardLossOptions
from tunesmith_torch.prefix.completion_groups import (
    CompletionBatch,
    CompletionGroup,
    GroupLayout,
    collate_final_tokens,
    completion_hidden,
)
from tunesmith_torch.prefix.prefix_check import can_share_prefix
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.runtime.eval_mode import eval_mode
from tunesmith_torch.training.first_batch import TokenLayout
from tunesmith_torch.training.loop import BatchCounts, RunWithBudget
from tunesmith_torch.training.preference_data import PreferenceData

__all__ = ["BradleyTerryObjective", "ModelWithRewardHead", "RewardModel"]

HEAD_FILE = "reward_head.safetensors"
MODEL_CARD = """---
tags: [tunesmith, reward-model]
---

This folder holds a reward model: the weights, and the vector in `reward_head.safetensors`. The
reward of a completion is the dot product of that vector and the last layer's hidden state (after
the final norm) at the completion's end token.
"""


class ModelWithRewardHead(nn.Module):
    """A language model whose output head is replaced with a linear reward head."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(width, 1, bias=False, dtype=torch.float32)

    def rewards(self, completions: CompletionBatch) -> Tensor:
        """Return the reward of each completion from ``collate_final_tokens``, [C]."""
        hidden_CD = completion_hidden(self.model, completions)
        with torch.autocast(hidden_CD.device.type, enabled=False):
            rewards_C1: Tensor = self.head(hidden_CD.float())
        return rewards_C1[:, 0]

    @classmethod
    def initialize(cls, adapted: AdaptedModel, seed: int) -> ModelWithRewardHead:
        """Return the model with a new head of small random weights, on the model's device."""
        width = adapted.base.config.get_text_config().hidden_size
        torch.manual_seed(seed)
        net = cls(adapted.model, width)
        # This scale gives small initial rewards at any width (Stiennon et al. 2020, appendix B).
        nn.init.normal_(net.head.weight, std=(width + 1) ** -0.5)
        return net.to(adapted.base.model.device)

    def save_head(self, folder: Path) -> None:
        """Write the head and a model card into an artifact's folder."""
        head_D = self.head.weight.detach()[0].float().cpu().contiguous()
        save_file({"head": head_D}, folder / HEAD_FILE)
        (folder / "README.md").write_text(MODEL_CARD, encoding="utf-8")

    def load_head(self, artifact: Path) -> None:
        """Load the head from an artifact's folder.

        Raises:
            IntegrityError: the folder has no head, or the head has another width.
        """
        if not (artifact / HEAD_FILE).is_file():
            raise IntegrityError(
                f"{artifact}: not a reward model, because {HEAD_FILE} is missing",
                hint="use the folder of a trained reward model",
            )
        head_D = load_file(artifact / HEAD_FILE)["head"]
        if head_D.shape[0] != self.head.in_features:
            raise IntegrityError(
                f"{artifact}: the reward head has width {head_D.shape[0]}, but the model has width "
                f"{self.head.in_features}",
                hint="use the base model that the reward model was trained from",
            )
        with torch.no_grad():
            self.head.weight.copy_(head_D[None])


def bradley_terry(
    chosen_B: Tensor, rejected_B: Tensor, margin: float, center_rewards_coefficient: float
) -> Tensor:
    """Return the Bradley-Terry loss of each pair, [B].

    It is ``-log sigmoid(chosen - rejected - margin) + coefficient * (chosen + rejected)**2``. The
    first term does not change if a constant is added to all rewards, so the second one centers them
    at 0 (Eisenstein et al. 2023, section 2).
    """
    loss_B = -logsigmoid(chosen_B - rejected_B - margin)
    return loss_B + center_rewards_coefficient * (chosen_B + rejected_B) ** 2


class BradleyTerryObjective:
    """The Bradley-Terry loss as a training objective, divided by the number of pairs."""

    def __init__(
        self, net: ModelWithRewardHead, data: PreferenceData, options: RewardLossOptions
    ) -> None:
        self._net, self._data = net, data
        self._options = options
        self._device = net.head.weight.device
        self._rewards: list[Tensor] = []
        self.row_groups: Sequence[str | None] | None = None

    def __len__(self) -> int:
        return len(self._data.groups)

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the tokens of the pairs, and the number of pairs as the loss divisor."""
        return self._data.counts(rows)

    def prepare(self, rows: Sequence[int], run: RunWithBudget) -> Sequence[int]:
        """Return the rows unchanged, as this loss needs no preparation."""
        return rows

    def start_update(self) -> None:
        """Discard the rewards recorded for the last batch."""
        self._rewards = []

    def micro_batches(self, prepared: Sequence[int], budget: int) -> list[CompletionBatch]:
        """Divide the pairs into micro-batches of at most ``budget`` tokens."""
        return list(collate_final_tokens(self._data.layout, self._data.groups, prepared, budget))

    def token_layout(self, micro_batch: CompletionBatch) -> TokenLayout:
        """Return the tokens of a micro-batch, for reports."""
        titles = self._data.completion_titles(micro_batch.group_indices)
        return TokenLayout(micro_batch.batch, micro_batch.tree_layout, titles, is_scored=True)

    def loss(self, micro_batch: CompletionBatch) -> Tensor:
        """Return the loss summed over the pairs of the micro-batch."""
        return self._losses(micro_batch).sum()

    def row_losses(self, micro_batch: CompletionBatch) -> list[tuple[int, float]]:
        """Return the index and the loss of each pair of the micro-batch."""
        losses = self._losses(micro_batch).tolist()
        return list(zip(micro_batch.group_indices, losses, strict=True))

    def _losses(self, micro_batch: CompletionBatch) -> Tensor:
        """Return the loss of each pair of the micro-batch."""
        rewards_C = self._net.rewards(micro_batch.to(self._device))
        self._rewards.append(rewards_C.detach().view(-1, 2))
        options = self._options
        terms = options.margin, options.center_rewards_coefficient
        # Chosen and rejected completions alternate.
        return bradley_terry(rewards_C[0::2], rewards_C[1::2], *terms)

    def metrics(self) -> dict[str, float]:
        """Return the last batch's accuracy and rewards, averaged over its pairs."""
        rewards_B2 = torch.cat([torch.zeros(0, 2, device=self._device), *self._rewards])
        margin_B = rewards_B2[:, 0] - rewards_B2[:, 1]
        sums = {
            "accuracy": float((margin_B > 0).float().sum() + 0.5 * (margin_B == 0).float().sum()),
            "reward_margin": float(margin_B.sum()),
            "reward_mean": float(rewards_B2.sum()) / 2,
        }
        total = distributed.all_reduce_sum({**sums, "pairs": len(rewards_B2)})
        return {name: total[name] / total["pairs"] for name in sums}


@dataclass(frozen=True)
class RewardModel:
    """A loaded reward model, in eval mode, with its template and layout."""

    net: ModelWithRewardHead
    template: Template
    layout: GroupLayout
    budget: int = 4096
    """Maximum number of tokens in a micro-batch."""

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
        """Load a reward model's artifact; if it is an adapter, ``model`` is its base model.

        Raises:
            IntegrityError: the artifact has no head, or the head has another width.
        """
        is_adapter = artifacts.detect_artifact_format(artifact) == "adapter"
        folder = model if is_adapter else artifact
        base = load_model(folder, device, precision, packing=packing, quantization=quantization)
        inner = artifacts.attach_adapter(base, artifact) if is_adapter else base.model
        net = ModelWithRewardHead(inner, base.config.get_text_config().hidden_size)
        net.load_head(artifact)
        net.to(device).eval().requires_grad_(False)
        sharing = packing and can_share_prefix(inner, context_length(base))
        # The artifact has the template it was trained with; the base model may have another.
        template = Template.from_tokenizer(load_tokenizer(artifact))
        return cls(net, template, GroupLayout(packing, sharing))

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Return the reward of each completion, given its prompt."""
        exchanges = self.template.encode_exchanges(prompts, completions)
        groups = [CompletionGroup(prompt, (completion,)) for prompt, completion in exchanges]
        return [float(rewards[0]) for rewards in self.group_rewards(groups)]

    @torch.no_grad()
    def group_rewards(self, groups: Sequence[CompletionGroup]) -> list[Tensor]:
        """Return the rewards of tokenized completions, one tensor per group."""
        rewards: list[Tensor] = [torch.empty(0)] * len(groups)
        device = self.net.head.weight.device
        with eval_mode(self.net):
            for batch in collate_final_tokens(self.layout, groups, range(len(groups)), self.budget):
                rows = batch.group_indices
                rewards_C = self.net.rewards(batch.to(device)).cpu()
                counts = [len(groups[row].completions) for row in rows]
                for row, group_rewards in zip(rows, torch.split(rewards_C, counts), strict=True):
                    rewards[row] = group_rewards
        return rewards
