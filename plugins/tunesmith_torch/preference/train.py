"""Training on preferences: make the better answer of a pair more likely than the worse one.

Shapes: B pairs, A = 2 B answers, N tokens of all answers.

The reference is the policy that training starts from. What it thinks of the answers never changes,
so it is asked once, before the first step, and its answers are kept below the run folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.contracts import Artifact, Job
from tunesmith_torch.losses import preference
from tunesmith_torch.losses.preference import Scored
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapter_stack import one_adapter
from tunesmith_torch.options.preference import PreferenceOptions
from tunesmith_torch.preference.reference_logprobs import remembered
from tunesmith_torch.prefix.completion_groups import Answers, Group, answer_logprobs, score_groups
from tunesmith_torch.runtime import distributed
from tunesmith_torch.training.auto_batch import settle
from tunesmith_torch.training.loop import Counts, fit
from tunesmith_torch.training.pair_setup import Ready


@distributed.together
def prefer(job: Job[Any]) -> Artifact:
    """Load, adapt, ask the reference, train on pairs, and commit the artifact.

    Raises:
        DataError: no pair can be learned from.
        TrainingError: see :func:`tunesmith_torch.training.loop.fit`.
    """
    job = settle(job)
    options: PreferenceOptions = job.config
    ready = Ready.of(job)
    objective = Preferring(ready, options)
    if options.needs_reference:
        objective.ask_reference(job)
    job.emit(ready.announcement(job, {"loss": options.loss, "beta": options.strength}))
    fit(job, ready.adapted, objective, seed=job.seed)
    whole = one_adapter(ready.adapted)
    artifact = artifacts.save(ready.card_job(job), whole, ready.template)
    job.emit(ready.ending(job, artifact))
    return artifact


@dataclass
class _Sums:
    """Figures of the pairs since they were last asked for."""

    pairs: int = 0
    sums: Tensor | None = None

    def add(self, chosen_B: Tensor, rejected_B: Tensor) -> None:
        ahead_B = (chosen_B > rejected_B).float() + 0.5 * (chosen_B == rejected_B).float()
        new = torch.stack([ahead_B.sum(), chosen_B.sum(), rejected_B.sum()])
        self.sums = new if self.sums is None else self.sums + new
        self.pairs += len(chosen_B)

    def means(self) -> dict[str, float]:
        """Over the pairs of all ranks."""
        sums = [0.0] * 3 if self.sums is None else self.sums.tolist()
        names = ("accuracy", "reward_chosen", "reward_rejected")
        total = distributed.summed({"pairs": self.pairs, **dict(zip(names, sums, strict=True))})
        if not total["pairs"]:
            return {}
        accuracy, chosen, rejected = (total[name] / total["pairs"] for name in names)
        return {
            "accuracy": accuracy,
            "reward_margin": chosen - rejected,
            "reward_chosen": chosen,
            "reward_rejected": rejected,
        }


class Preferring:
    """The losses over pairs as an objective; a batch divides their sum by its pairs."""

    def __init__(self, ready: Ready, options: PreferenceOptions) -> None:
        self._ready = ready
        self._adapted = ready.adapted
        self._device = ready.adapted.base.model.device
        self._pairs = ready.pairs
        self._options = options
        self._reference_R2 = torch.zeros(len(ready.pairs), 2)
        self._strangers: list[Group] = []
        """KTO: each prompt with the chosen answer to another one."""
        self._strangers_reference_R = torch.zeros(0)
        self._baseline = torch.zeros((), device=self._device)
        self._figures = _Sums()

    def ask_reference(self, job: Job[Any]) -> None:
        """Fetch what the reference thinks, from the run folder or from the model as it is now."""
        groups = list(self._pairs)
        if self._options.loss == "kto":
            self._strangers = list(_strangers(self._pairs))
            groups += self._strangers

        def ask(asked: Sequence[Group]) -> list[Tensor]:
            with self._adapted.arithmetic():
                budget = self._options.micro_batch_tokens
                return score_groups(self._adapted.model, asked, self._ready.layout, budget)

        scores = remembered(job, self._adapted.model, groups, ask)
        rows = len(self._pairs)
        self._reference_R2 = torch.stack(scores[:rows])
        self._strangers_reference_R = (
            torch.cat(scores[rows:]) if self._strangers else torch.zeros(0)
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def counts(self, rows: Sequence[int]) -> Counts:
        """Tokens of the pairs; the loss is divided by the pairs."""
        return self._ready.counts(rows)

    def micro_batches(self, rows: Sequence[int], budget: int) -> list[Answers]:
        """The pairs laid out. Called once at the start of each batch."""
        self._figures = _Sums()
        if self._options.loss == "kto":
            self._baseline = self._divergence(rows, budget)
        return list(self._ready.layout.micro_batches(self._pairs, rows, budget))

    def loss(self, micro_batch: Answers) -> Tensor:
        """The loss summed over the micro-batch's pairs."""
        pairs = self.score(micro_batch)
        beta, options = self._options.strength, self._options
        match options.loss:
            case "dpo":
                loss_B = preference.dpo(pairs, beta, options.label_smoothing)
            case "ipo":
                loss_B = preference.ipo(pairs, beta)
            case "kto":
                weights = options.desirable_weight, options.undesirable_weight
                loss_B = preference.kto(pairs, beta, self._baseline, *weights)
            case "orpo":
                loss_B = preference.orpo(pairs, beta)
            case "simpo":
                loss_B = preference.simpo(pairs, beta, options.margin)
        self._note(pairs, beta)
        return loss_B.sum()

    def score(self, micro_batch: Answers) -> Scored:
        """What the policy, and the reference, think of the micro-batch's answers."""
        answers = micro_batch.to(self._device)
        logp_A = answers.sums(answer_logprobs(self._adapted.model, answers))
        reference_B2 = self._reference_R2[list(micro_batch.groups)].to(logp_A)
        lengths_A = answers.lengths_A.to(logp_A)
        return Scored(
            logp_A[0::2],
            logp_A[1::2],
            lengths_A[0::2],
            lengths_A[1::2],
            reference_B2[:, 0],
            reference_B2[:, 1],
        )

    def figures(self) -> dict[str, float]:
        """Accuracy, margin and rewards of the last batch, means over its pairs."""
        return self._figures.means()

    @torch.no_grad()
    def _note(self, pairs: Scored, beta: float) -> None:
        if self._options.needs_reference:
            self._figures.add(beta * pairs.chosen_ratio_B, beta * pairs.rejected_ratio_B)
        else:
            self._figures.add(beta * pairs.chosen_mean_B, beta * pairs.rejected_mean_B)

    def _divergence(self, rows: Sequence[int], budget: int) -> Tensor:
        """KTO's baseline: how much likelier the batch's strangers became, in nats, at least 0.

        Over the whole batch, on all ranks, and before its micro-batches, so that it does not depend
        on how they were made.
        """
        strangers = [self._strangers[row] for row in rows]
        with self._adapted.arithmetic():
            scores = score_groups(self._adapted.model, strangers, self._ready.layout, budget)
        reference_B = self._strangers_reference_R[list(rows)]
        apart = float((torch.cat([*scores, reference_B[:0]]) - reference_B).sum())
        total = distributed.summed({"nats": apart, "pairs": len(rows)})
        return torch.tensor(max(total["nats"] / total["pairs"], 0.0), device=self._device)


def _strangers(pairs: Sequence[Group]) -> Iterator[Group]:
    """Each prompt with the next pair's chosen answer, cut where it is longer than the prompt's own.

    That keeps it within the model's context.
    """
    for row, pair in enumerate(pairs):
        answer = pairs[(row + 1) % len(pairs)].answers[0]
        yield Group(pair.prompt, (answer[: max(map(len, pair.answers))],))
