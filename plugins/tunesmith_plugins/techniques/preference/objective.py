"""Define the preference objective, which makes good completions more likely than bad ones.

Shapes: B pairs, C completions of a micro-batch, N tokens of all completions, R rows of the dataset.
A row is a pair of a good (chosen) and a bad (rejected) completion. For KTO, a row can also be a
single completion with a label.

Every loss here depends on the data only through the log-probability of each completion::

    policy        log pi(completion | prompt)      at every step
    reference     log ref(completion | prompt)     once, before step 1

The implicit reward of a completion is ``beta * (log pi - log ref)`` (Rafailov et al. 2023). The
reference is the policy before the first step. Its log-probabilities never change, so they are
computed once and stored in the run folder. ORPO and SimPO do not need a reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tunesmith.contracts import Job
from tunesmith.errors import DataError
from tunesmith_plugins.techniques.preference import losses as preference
from tunesmith_plugins.techniques.preference.losses import CompletionScores
from tunesmith_plugins.techniques.preference.reference_logprobs import cached_reference_logprobs
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.options.preference import PreferenceLossOptions
from tunesmith_torch.prefix.completion_groups import (
    CompletionBatch,
    CompletionGroup,
    completion_logprobs,
    score_groups,
)
from tunesmith_torch.runtime import distributed, sharding
from tunesmith_torch.training.first_batch import TokenLayout
from tunesmith_torch.training.loop import BatchCounts, RunWithBudget
from tunesmith_torch.training.preference_data import PreferenceData


@dataclass
class _RewardMetrics:
    """Running sums over the completions of a batch, and the metrics computed from them."""

    sums: Tensor | None = None

    def add(self, rewards_C: Tensor, good_C: Tensor, *, are_pairs: bool) -> None:
        good, bad = good_C.to(rewards_C), (~good_C).to(rewards_C)
        correct = pairs = rewards_C.new_zeros(())
        if are_pairs:
            chosen_B, rejected_B = rewards_C[0::2], rewards_C[1::2]
            correct = ((chosen_B > rejected_B) + 0.5 * (chosen_B == rejected_B)).sum()
            pairs = pairs + len(chosen_B)
        sums_of_rewards = (rewards_C * good).sum(), (rewards_C * bad).sum()
        new = torch.stack([*sums_of_rewards, good.sum(), bad.sum(), correct, pairs])
        self.sums = new if self.sums is None else self.sums + new

    def means(self) -> dict[str, float]:
        """Return the means over the completions of all ranks, except those that are undefined.

        Accuracy needs pairs, and a batch of labeled answers may lack good or bad ones.
        """
        names = ("good_sum", "bad_sum", "good", "bad", "correct", "pairs")
        sums = [0.0] * len(names) if self.sums is None else self.sums.tolist()
        total = distributed.all_reduce_sum(dict(zip(names, sums, strict=True)))
        metrics = {}
        if total["pairs"]:
            metrics["accuracy"] = total["correct"] / total["pairs"]
        if total["good"] and total["bad"]:
            margin = total["good_sum"] / total["good"] - total["bad_sum"] / total["bad"]
            metrics["reward_margin"] = margin
        if total["good"]:
            metrics["reward_chosen"] = total["good_sum"] / total["good"]
        if total["bad"]:
            metrics["reward_rejected"] = total["bad_sum"] / total["bad"]
        return metrics


class PreferenceObjective:
    """DPO, IPO, KTO, ORPO or SimPO as a training objective.

    The loss is divided by the number of pairs. KTO's loss is divided by the number of completions,
    so a pair counts as two labeled answers.
    """

    def __init__(
        self, adapted: AdaptedModel, data: PreferenceData, options: PreferenceLossOptions
    ) -> None:
        self._adapted, self._data = adapted, data
        self._device = adapted.base.model.device
        self._groups = data.groups
        self._options = options
        self._are_pairs = data.has_pairs_only
        self._ref_logprobs = [torch.zeros(len(group.completions)) for group in data.groups]
        """For each row, a tensor with the reference log-probability of each completion, in nats."""
        self._mismatched: list[CompletionGroup] = []
        """KTO only: each row's prompt, paired with a completion of another prompt."""
        self._mismatched_ref_logprobs_R = torch.zeros(0)
        self._z0 = torch.zeros((), device=self._device)
        """KTO only: the estimate of KL(policy, reference) for the current batch, in nats."""
        self._metrics = _RewardMetrics()
        self.row_groups: Sequence[str | None] | None = None

    def load_or_compute_reference(self, job: Job[Any], budget: int) -> None:
        """Read the reference log-probabilities, or compute them with the current weights.

        Call this before the first step, while the model is still the reference. ``budget`` is the
        maximum number of tokens in a micro-batch.

        Raises:
            DataError: the loss is KTO and all rows have the same prompt.
        """
        groups: list[CompletionGroup] = list(self._groups)
        if self._options.type == "kto":
            self._mismatched = mismatched_groups(self._groups)
            groups += self._mismatched

        def compute_logprobs(share: Sequence[CompletionGroup]) -> list[Tensor]:
            with self._adapted.autocast():
                return score_groups(self._adapted.model, share, self._data.layout, budget)

        logprobs = cached_reference_logprobs(job, self._adapted.model, groups, compute_logprobs)
        R = len(self._groups)
        self._ref_logprobs = logprobs[:R]
        self._mismatched_ref_logprobs_R = torch.cat([torch.zeros(0), *logprobs[R:]])

    def __len__(self) -> int:
        return len(self._groups)

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the number of tokens in the rows, and the loss divisor (pairs or completions)."""
        counts = self._data.counts(rows)
        if self._options.type != "kto":
            return counts
        return replace(counts, loss_divisor=self._data.completion_count(rows))

    def prepare(self, rows: Sequence[int], run: RunWithBudget) -> Sequence[int]:
        """Estimate the batch's KL divergence for KTO. The other losses need no preparation."""
        if self._options.type == "kto":
            with sharding.summon_full_params(self._adapted.model):
                self._z0 = run(lambda budget: self._estimate_z0(rows, budget))
        return rows

    def start_update(self) -> None:
        """Reset the sums of accuracy, margin and rewards."""
        self._metrics = _RewardMetrics()

    def micro_batches(self, prepared: Sequence[int], budget: int) -> list[CompletionBatch]:
        """Divide the rows into micro-batches of at most ``budget`` tokens."""
        return list(self._data.layout.micro_batches(self._groups, prepared, budget))

    def token_layout(self, micro_batch: CompletionBatch) -> TokenLayout:
        """Return the positions of the tokens in a micro-batch, for reports."""
        titles = self._data.completion_titles(micro_batch.group_indices)
        return TokenLayout(micro_batch.batch, micro_batch.tree_layout, titles)

    def loss(self, micro_batch: CompletionBatch) -> Tensor:
        """Return the loss summed over the pairs, or for KTO over the completions."""
        return self._losses(micro_batch).sum()

    def row_losses(self, micro_batch: CompletionBatch) -> list[tuple[int, float]]:
        """Return each row's index and loss, which for KTO is summed over its completions."""
        rows, are_pairs = micro_batch.group_indices, self._options.type != "kto"
        counts = [1 if are_pairs else len(self._groups[row].completions) for row in rows]
        parts = torch.split(self._losses(micro_batch).double().cpu(), counts)
        return [(row, float(part.sum())) for row, part in zip(rows, parts, strict=True)]

    def _losses(self, micro_batch: CompletionBatch) -> Tensor:
        """Return the loss of each pair, or of each completion for KTO."""
        scores = self.score_completions(micro_batch)
        labels = [label for row in micro_batch.group_indices for label in self._groups[row].labels]
        good_C = torch.tensor(labels, device=self._device)
        beta, options = self._options.effective_beta, self._options
        match options.type:
            case "dpo":
                losses = preference.dpo(scores.pairs, beta, options.label_smoothing)
            case "ipo":
                losses = preference.ipo(scores.pairs, beta)
            case "kto":
                weights = options.desirable_weight, options.undesirable_weight
                losses = preference.kto(scores, good_C, beta, self._z0, *weights)
            case "orpo":
                losses = preference.orpo(scores.pairs, beta)
            case "simpo":
                losses = preference.simpo(scores.pairs, beta, options.margin)
        rewards_C = beta * (scores.ratios_C if options.needs_reference else scores.means_C)
        self._metrics.add(rewards_C.detach(), good_C, are_pairs=self._are_pairs)
        return losses

    def score_completions(self, micro_batch: CompletionBatch) -> CompletionScores:
        """Return the log-probabilities of the completions under the policy and the reference."""
        completions = micro_batch.to(self._device)
        logprobs_N = completion_logprobs(self._adapted.model, completions)
        logprobs_C = completions.sum_per_completion(logprobs_N)
        reference_C = torch.cat([self._ref_logprobs[row] for row in micro_batch.group_indices])
        return CompletionScores(
            logprobs_C, reference_C.to(logprobs_C), completions.lengths_C.to(logprobs_C)
        )

    def metrics(self) -> dict[str, float]:
        """Return the last batch's implicit rewards, margin and accuracy, and the KL for KTO."""
        kl = {"kl": float(self._z0)} if self._options.type == "kto" else {}
        return {**self._metrics.means(), **kl}

    def _estimate_z0(self, rows: Sequence[int], budget: int) -> Tensor:
        """Estimate KL(policy, reference) for KTO on mismatched completions, in nats, at least 0.

        This is ``z_0`` in Ethayarajh et al. 2024, section 4.1: ``mean(log pi - log ref)`` over the
        whole batch and all ranks. It is computed before the batch is divided, so it does not depend
        on the micro-batches.
        """
        mismatched = [self._mismatched[row] for row in rows]
        with self._adapted.autocast():
            logprobs = score_groups(self._adapted.model, mismatched, self._data.layout, budget)
        ref_logprobs_B = self._mismatched_ref_logprobs_R[list(rows)]
        # The empty slice gives `cat` an input on a rank without rows.
        kl = float((torch.cat([*logprobs, ref_logprobs_B[:0]]) - ref_logprobs_B).sum())
        total = distributed.all_reduce_sum({"nats": kl, "rows": len(rows)})
        return torch.tensor(max(total["nats"] / total["rows"], 0.0), device=self._device)


def mismatched_groups(groups: Sequence[CompletionGroup]) -> list[CompletionGroup]:
    """Pair each prompt with the first completion of the next row that has another prompt.

    The choice depends on the data alone, because the reference scores these completions only once
    and a resumed run must get the same ones. The completions are cut so that no sequence is longer
    than the longest row.

    Rows with the same prompt often follow each other, so the next row may have the same prompt. Its
    completion would measure the implicit reward that training raises, not the KL divergence.

    Raises:
        DataError: all rows have the same prompt.
    """
    if all(group.prompt == groups[0].prompt for group in groups):
        raise DataError(
            "data",
            "all rows have the same prompt, but kto also needs answers to other prompts",
            hint="add rows with other prompts",
        )
    longest = max(group.longest_sequence for group in groups)
    # Walk backwards, so that `following` is always the next row with another prompt. The last row
    # is followed by the first one again.
    following = next(group for group in groups if group.prompt != groups[-1].prompt)
    mismatched = []
    for row in range(len(groups) - 1, -1, -1):
        group = groups[row]
        next_group = groups[(row + 1) % len(groups)]
        if next_group.prompt != group.prompt:
            following = next_group
        room = longest - len(group.prompt)
        mismatched.append(CompletionGroup(group.prompt, (following.completions[0][:room],)))
    return mismatched[::-1]
