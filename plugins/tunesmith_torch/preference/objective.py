"""The preference objective: the chosen completion of a pair becomes likelier than the rejected one.

Shapes: B pairs, C = 2 B completions, N tokens of all completions, R pairs of the data set.

Every loss here depends on the data only through the log-probability of each completion::

    policy        log pi(chosen | prompt),  log pi(rejected | prompt)      at every step
    reference     log ref(chosen | prompt), log ref(rejected | prompt)     once, before step 1

The implicit reward of a completion is ``beta * (log pi - log ref)`` (Rafailov et al. 2023). The
reference is the policy before the first step. Its log-probabilities never change, so they are
computed once and stored below the run folder; ORPO and SimPO need no reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.contracts import Job
from tunesmith_torch.losses import preference
from tunesmith_torch.losses.preference import PairScores
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.options.preference import PreferenceLossOptions
from tunesmith_torch.preference.reference_logprobs import cached_reference_logprobs
from tunesmith_torch.prefix.completion_groups import (
    CompletionBatch,
    CompletionGroup,
    completion_logprobs,
    score_groups,
)
from tunesmith_torch.runtime import distributed
from tunesmith_torch.training.loop import BatchCounts, RunWithBudget
from tunesmith_torch.training.pair_data import PairData


@dataclass
class _PairMetrics:
    """Sums over the pairs of a batch, from which its metrics are computed."""

    pairs: int = 0
    sums: Tensor | None = None

    def add(self, chosen_rewards_B: Tensor, rejected_rewards_B: Tensor) -> None:
        ties_B = chosen_rewards_B == rejected_rewards_B
        correct_B = (chosen_rewards_B > rejected_rewards_B).float() + 0.5 * ties_B.float()
        new = torch.stack([correct_B.sum(), chosen_rewards_B.sum(), rejected_rewards_B.sum()])
        self.sums = new if self.sums is None else self.sums + new
        self.pairs += len(chosen_rewards_B)

    def means(self) -> dict[str, float]:
        """Return the means over the pairs of all ranks."""
        sums = [0.0] * 3 if self.sums is None else self.sums.tolist()
        names = ("accuracy", "reward_chosen", "reward_rejected")
        own = {"pairs": self.pairs, **dict(zip(names, sums, strict=True))}
        total = distributed.all_reduce_sum(own)
        if not total["pairs"]:
            return {}
        accuracy, chosen, rejected = (total[name] / total["pairs"] for name in names)
        return {
            "accuracy": accuracy,
            "reward_margin": chosen - rejected,
            "reward_chosen": chosen,
            "reward_rejected": rejected,
        }


class PreferenceObjective:
    """DPO, IPO, KTO, ORPO or SimPO as an objective; the loss is divided by the number of pairs."""

    def __init__(
        self, adapted: AdaptedModel, data: PairData, options: PreferenceLossOptions
    ) -> None:
        self._adapted, self._data = adapted, data
        self._device = adapted.base.model.device
        self._pairs = data.pairs
        self._options = options
        self._ref_logprobs_R2 = torch.zeros(len(data.pairs), 2)
        self._mismatched_pairs: list[CompletionGroup] = []
        """KTO: each prompt with the chosen completion of another prompt."""
        self._mismatched_ref_logprobs_R = torch.zeros(0)
        self._kl = torch.zeros((), device=self._device)
        """KTO: the estimate for the current batch."""
        self._metrics = _PairMetrics()

    def load_or_compute_reference(self, job: Job[Any], budget: int) -> None:
        """Read the reference log-probabilities, or compute them with the current weights.

        ``budget``: tokens of a micro-batch. Must be called before the first step: later the model
        is no longer the reference.
        """
        groups = list(self._pairs)
        if self._options.type == "kto":
            self._mismatched_pairs = list(_mismatched_pairs(self._pairs))
            groups += self._mismatched_pairs

        def compute_logprobs(share: Sequence[CompletionGroup]) -> list[Tensor]:
            with self._adapted.autocast():
                return score_groups(self._adapted.model, share, self._data.layout, budget)

        logprobs = cached_reference_logprobs(job, self._adapted.model, groups, compute_logprobs)
        R = len(self._pairs)
        self._ref_logprobs_R2 = torch.stack(logprobs[:R])
        self._mismatched_ref_logprobs_R = (
            torch.cat(logprobs[R:]) if self._mismatched_pairs else torch.zeros(0)
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the tokens of the pairs; the loss is divided by the number of pairs."""
        return self._data.counts(rows)

    def prepare(self, rows: Sequence[int], run: RunWithBudget) -> Sequence[int]:
        """Estimate KTO's KL of the batch; the other losses need nothing."""
        if self._options.type == "kto":
            self._kl = run(lambda budget: self._estimate_kl(rows, budget))
        return rows

    def start_update(self) -> None:
        """Reset accuracy, margin and rewards."""
        self._metrics = _PairMetrics()

    def micro_batches(self, prepared: Sequence[int], budget: int) -> list[CompletionBatch]:
        """Lay the pairs out."""
        return list(self._data.layout.micro_batches(self._pairs, prepared, budget))

    def loss(self, micro_batch: CompletionBatch) -> Tensor:
        """Return the loss summed over the pairs of the micro-batch."""
        pairs = self.score_pairs(micro_batch)
        beta, options = self._options.effective_beta, self._options
        match options.type:
            case "dpo":
                loss_B = preference.dpo(pairs, beta, options.label_smoothing)
            case "ipo":
                loss_B = preference.ipo(pairs, beta)
            case "kto":
                weights = options.desirable_weight, options.undesirable_weight
                loss_B = preference.kto(pairs, beta, self._kl, *weights)
            case "orpo":
                loss_B = preference.orpo(pairs, beta)
            case "simpo":
                loss_B = preference.simpo(pairs, beta, options.margin)
        self._record_metrics(pairs, beta)
        return loss_B.sum()

    def score_pairs(self, micro_batch: CompletionBatch) -> PairScores:
        """Return the log-probabilities of the completions under the policy and the reference."""
        completions = micro_batch.to(self._device)
        logprobs_N = completion_logprobs(self._adapted.model, completions)
        logprobs_C = completions.sum_per_completion(logprobs_N)
        ref_logprobs_B2 = self._ref_logprobs_R2[list(micro_batch.group_indices)].to(logprobs_C)
        lengths_C = completions.lengths_C.to(logprobs_C)
        # Chosen and rejected completions alternate.
        return PairScores(
            logprobs_C[0::2],
            logprobs_C[1::2],
            lengths_C[0::2],
            lengths_C[1::2],
            ref_logprobs_B2[:, 0],
            ref_logprobs_B2[:, 1],
        )

    def metrics(self) -> dict[str, float]:
        """Return accuracy, margin and implicit rewards of the last batch, means over its pairs."""
        return self._metrics.means()

    @torch.no_grad()
    def _record_metrics(self, pairs: PairScores, beta: float) -> None:
        if self._options.needs_reference:
            self._metrics.add(beta * pairs.chosen_ratio_B, beta * pairs.rejected_ratio_B)
        else:
            self._metrics.add(beta * pairs.chosen_mean_B, beta * pairs.rejected_mean_B)

    def _estimate_kl(self, rows: Sequence[int], budget: int) -> Tensor:
        """Estimate KTO's KL(policy, reference) on mismatched pairs, in nats, at least 0.

        ``mean(log pi - log ref)`` over the complete batch and all ranks (``z_0`` in Ethayarajh et
        al. 2024). It is computed before the batch's micro-batches, so that it does not depend on
        their layout.
        """
        mismatched = [self._mismatched_pairs[row] for row in rows]
        with self._adapted.autocast():
            logprobs = score_groups(self._adapted.model, mismatched, self._data.layout, budget)
        ref_logprobs_B = self._mismatched_ref_logprobs_R[list(rows)]
        # The empty slice lets a rank without rows concatenate something.
        kl = float((torch.cat([*logprobs, ref_logprobs_B[:0]]) - ref_logprobs_B).sum())
        total = distributed.all_reduce_sum({"nats": kl, "pairs": len(rows)})
        return torch.tensor(max(total["nats"] / total["pairs"], 0.0), device=self._device)


def _mismatched_pairs(pairs: Sequence[CompletionGroup]) -> Iterator[CompletionGroup]:
    """Pair each prompt with the chosen completion of the next pair.

    The completion is truncated to the length of the prompt's own longest one, which keeps the
    sequence within the model's context.
    """
    for row, pair in enumerate(pairs):
        completion = pairs[(row + 1) % len(pairs)].completions[0]
        yield CompletionGroup(pair.prompt, (completion[: max(map(len, pair.completions))],))
