"""Training on preferences: make the better answer of a pair more likely than the worse one.

Shapes: B pairs, A = 2 B answers, N tokens of all answers.

The reference is the policy that training starts from. What it thinks of the answers never changes,
so it is asked once, before the first step, and its answers are kept below the run folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError
from tunesmith.events import Noticed, Trained, TrainingStarted
from tunesmith.records import Preference, Record

from tunesmith_torch import artifacts, preference_losses
from tunesmith_torch.adapt import Adapted
from tunesmith_torch.device import pick_device, pick_precision
from tunesmith_torch.finetune import context_of, template_override
from tunesmith_torch.fit import Counts, fit
from tunesmith_torch.groups import (
    Answers,
    Group,
    Layout,
    answer_logprobs,
    can_share,
    score_groups,
)
from tunesmith_torch.memory import peak_bytes, reset_peak
from tunesmith_torch.preference_losses import Scored
from tunesmith_torch.preference_options import PreferenceOptions
from tunesmith_torch.reference import remembered
from tunesmith_torch.schedule import Order
from tunesmith_torch.start import (
    Start,
    adapt_policy,
    base_folder,
    card_job,
    load_policy_base,
    one_adapter,
)
from tunesmith_torch.templates import Template


def prefer(job: Job[Any]) -> Artifact:
    """Load, adapt, ask the reference, train on pairs, and commit the artifact.

    Raises:
        DataError: no pair can be learned from.
        TrainingError: see :func:`tunesmith_torch.fit.fit`.
    """
    options: PreferenceOptions = job.config
    device = pick_device(job.device)
    precision = pick_precision(device, options.precision)
    reset_peak(device)
    start = Start.find(options.start) if options.start is not None else None
    folder = base_folder(job.model, start)
    base = load_policy_base(folder, device, precision, options.packing)
    template = Template.of(base.tokenizer, template_override(options))
    pairs = pairs_of(job, template, min(options.max_tokens, context_of(base)))
    adapted = adapt_policy(
        base, precision, options, weights=options.adapt, start=start, seed=job.seed
    )
    if options.checkpointing:
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    sharing = options.packing and options.share_prompts and can_share(adapted.model)
    layout = Layout(options.packing, sharing)
    objective = Preferring(adapted, pairs, options, layout)
    if options.needs_reference:
        objective.ask_reference(job)
    order = Order(len(pairs), options.batch, options.epochs, job.seed, options.max_steps)
    job.emit(_announcement(job, adapted, objective, order, template))
    fit(job, adapted, objective, seed=job.seed)
    artifact = artifacts.save(card_job(job, start), one_adapter(adapted), template)
    total = objective.counts(range(len(pairs)))
    job.emit(
        Trained(
            stage=job.name,
            technique=job.technique,
            steps=order.steps,
            tokens=round(total.tokens * options.epochs),
            trained_tokens=round(total.trained_tokens * options.epochs),
            seconds=0.0,
            peak_memory_bytes=peak_bytes(device),
            artifact=str(artifact.path.relative_to(job.out)),
            format=artifact.format,
        )
    )
    return artifact


def pairs_of(job: Job[Any], template: Template, limit: int) -> list[Group]:
    """Every preference as a prompt and two answers; what does not fit is told.

    Raises:
        DataError: nothing is left.
    """
    records = [record for record in job.train if isinstance(record, Preference)]
    groups = groups_of(records, template)
    fitting = [g for g in groups if len(g.prompt) + max(map(len, g.answers)) <= limit]
    if not fitting:
        raise DataError(
            records[0].source if records else "data",
            f"no pair can be learned from: none of {len(groups)} has at most {limit} tokens",
            hint="raise technique.max_tokens, or shorten the rows",
        )
    if len(fitting) < len(groups):
        lost = f"{len(groups) - len(fitting)} of {len(groups)} pairs are left out of training"
        text = f"{lost}: longer than {limit} tokens"
        job.emit(Noticed(level="warning", source="data", message=text))
    return fitting


def groups_of(records: Sequence[Record], template: Template) -> list[Group]:
    """Preferences as token ids: the prompt, then chosen and rejected."""
    pairs = [record for record in records if isinstance(record, Preference)]
    prompts = [record.prompt for record in pairs]
    chosen = template.exchanges_ids(prompts, [record.chosen for record in pairs])
    rejected = template.exchanges_ids(prompts, [record.rejected for record in pairs])
    return [
        Group(prompt, (good, bad))
        for (prompt, good), (_, bad) in zip(chosen, rejected, strict=True)
    ]


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
        if self.sums is None:
            return {}
        accuracy, chosen, rejected = (self.sums / self.pairs).tolist()
        return {
            "accuracy": accuracy,
            "reward_margin": chosen - rejected,
            "reward_chosen": chosen,
            "reward_rejected": rejected,
        }


class Preferring:
    """The losses over pairs as an objective; a batch divides their sum by its pairs."""

    def __init__(
        self,
        adapted: Adapted,
        pairs: Sequence[Group],
        options: PreferenceOptions,
        layout: Layout,
    ) -> None:
        self.layout = layout
        self._adapted = adapted
        self._device = adapted.base.model.device
        self._pairs = pairs
        self._options = options
        self._sizes = np.array([layout.size(pair) for pair in pairs])
        self._answers = np.array([pair.answer_tokens for pair in pairs])
        self._reference_R2 = torch.zeros(len(pairs), 2)
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

        def ask() -> list[Tensor]:
            with self._adapted.arithmetic():
                budget = self._options.micro_tokens
                return score_groups(self._adapted.model, groups, self.layout, budget)

        scores = remembered(job, self._adapted.model, groups, ask)
        rows = len(self._pairs)
        self._reference_R2 = torch.stack(scores[:rows])
        self._strangers_reference_R = (
            torch.cat(scores[rows:]) if self._strangers else torch.zeros(0)
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def counts(self, rows: Sequence[int]) -> Counts:
        """Tokens of the pairs as they are laid out; the loss is divided by the pairs."""
        rows = list(rows)
        tokens, trained = int(self._sizes[rows].sum()), int(self._answers[rows].sum())
        return Counts(tokens=tokens, trained_tokens=trained, units=len(rows))

    def micro_batches(self, rows: Sequence[int], budget: int) -> list[Answers]:
        """The pairs laid out. Called once at the start of each batch."""
        self._figures = _Sums()
        if self._options.loss == "kto":
            self._baseline = self._divergence(rows, budget)
        return list(self.layout.micro_batches(self._pairs, rows, budget))

    def loss(self, micro_batch: Answers) -> Tensor:
        """The loss summed over the micro-batch's pairs."""
        pairs = self.score(micro_batch)
        beta, options = self._options.strength, self._options
        match options.loss:
            case "dpo":
                loss_B = preference_losses.dpo(pairs, beta, options.label_smoothing)
            case "ipo":
                loss_B = preference_losses.ipo(pairs, beta)
            case "kto":
                weights = options.desirable_weight, options.undesirable_weight
                loss_B = preference_losses.kto(pairs, beta, self._baseline, *weights)
            case "orpo":
                loss_B = preference_losses.orpo(pairs, beta)
            case "simpo":
                loss_B = preference_losses.simpo(pairs, beta, options.margin)
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

        Over the whole batch and before its micro-batches, so that it does not depend on them.
        """
        strangers = [self._strangers[row] for row in rows]
        with self._adapted.arithmetic():
            scores = score_groups(self._adapted.model, strangers, self.layout, budget)
        reference_B = self._strangers_reference_R[list(rows)]
        return (torch.cat(scores) - reference_B).mean().clamp(min=0).to(self._device)


def _strangers(pairs: Sequence[Group]) -> Iterator[Group]:
    """Each prompt with the next pair's chosen answer, cut where it is longer than the prompt's own.

    That keeps it within the model's context.
    """
    for row, pair in enumerate(pairs):
        answer = pairs[(row + 1) % len(pairs)].answers[0]
        yield Group(pair.prompt, (answer[: max(map(len, pair.answers))],))


def _announcement(
    job: Job[Any], adapted: Adapted, objective: Preferring, order: Order, template: Template
) -> TrainingStarted:
    options: PreferenceOptions = job.config
    newest = job.checkpoints.newest()
    total = objective.counts(range(len(objective)))
    return TrainingStarted(
        stage=job.name,
        technique=job.technique,
        steps=order.steps,
        epochs=options.epochs,
        rows=len(objective),
        tokens=total.tokens,
        trained_tokens=total.trained_tokens,
        trainable_parameters=adapted.trainable_parameters,
        parameters=adapted.parameters,
        device=str(adapted.base.model.device),
        precision=f"{adapted.precision.name}: {adapted.precision.why}",
        details={
            **adapted.details,
            "loss": options.loss,
            "beta": options.strength,
            "shared_prompts": objective.layout.sharing,
            "template_sha256": template.sha256,
            "batch": options.batch,
        },
        first_step=newest.step if newest else 0,
    )
