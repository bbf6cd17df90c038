"""The setup that preference training (DPO and others) and reward models share.

Both train on pairs: a prompt, the chosen and the rejected completion. A pair is a
:class:`~tunesmith_torch.prefix.completion_groups.CompletionGroup` of two, and a micro-batch lays
its pairs out in order, chosen before rejected. With ``share_prompts`` each prompt is computed once
for both of its completions; otherwise it is repeated::

    shared        prompt 0 | prompt 1 | chosen 0 | rejected 0 | chosen 1 | rejected 1
    not shared    prompt 0  chosen 0 | prompt 0  rejected 0 | prompt 1  chosen 1 | ...

A shared prompt is visible to its own completions only
(:mod:`tunesmith_torch.kernels.tree_attention`).

In both layouts the completions of a micro-batch alternate: ``[0::2]`` are the chosen ones,
``[1::2]`` the rejected ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError
from tunesmith.events import JSON, Notice, TrainingFinished, TrainingStarted
from tunesmith_torch.data.templates import Template, read_chat_template
from tunesmith_torch.models.adapter_stack import (
    InitialModel,
    adapt_policy,
    base_folder,
    load_policy_base,
    policy_quantization,
)
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.loading import context_length, enable_gradient_checkpointing
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.preference import PairOptions
from tunesmith_torch.prefix.completion_groups import CompletionGroup, GroupLayout, tokenize_pairs
from tunesmith_torch.prefix.prefix_check import can_share_prefix
from tunesmith_torch.runtime.device import pick_device, pick_precision
from tunesmith_torch.runtime.memory import peak_bytes, reset_peak
from tunesmith_torch.training.loop import BatchCounts


@dataclass(frozen=True)
class PairTrainingSetup:
    """A loaded and adapted model, and the tokenized pairs that it will be trained on."""

    adapted: AdaptedModel
    template: Template
    pairs: Sequence[CompletionGroup]
    layout: GroupLayout
    initial_model: InitialModel | None
    order: BatchOrder
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def load(cls, job: Job[Any]) -> PairTrainingSetup:
        """Load and adapt the model, tokenize the pairs.

        Raises:
            DataError: no pair can be trained on.
        """
        options: PairOptions = job.config
        device = pick_device(job.device)
        precision = pick_precision(device, options.precision)
        reset_peak(device)
        initial_model = None
        if options.initial_model is not None:
            initial_model = InitialModel.find(options.initial_model, job.stage)
        folder, quantization = base_folder(job.model, initial_model), policy_quantization(options)
        base = load_policy_base(folder, device, precision, options.packing, quantization)
        template = Template.from_tokenizer(base.tokenizer, read_chat_template(options))
        pairs = fitting_pairs(job, template, min(options.max_length, context_length(base)))
        adapted = adapt_policy(
            base,
            precision,
            options,
            trained_weights=options.trained_weights,
            initial_model=initial_model,
            seed=job.seed,
        )
        if options.gradient_checkpointing:
            enable_gradient_checkpointing(base.model)
        sharing = options.packing and options.share_prompts and can_share_prefix(adapted.model)
        order = BatchOrder.from_options(len(pairs), options, job.seed)
        return cls(
            adapted, template, pairs, GroupLayout(options.packing, sharing), initial_model, order
        )

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the tokens of the pairs as laid out; the loss divisor is the number of pairs."""
        tokens = int(np.sum([self.layout.count_tokens(self.pairs[row]) for row in rows]))
        trained = int(np.sum([self.pairs[row].completion_tokens for row in rows]))
        return BatchCounts(tokens=tokens, trained_tokens=trained, loss_divisor=len(rows))

    def training_started_event(self, job: Job[Any], details: JSON) -> TrainingStarted:
        """Return the event to emit before the first step."""
        options: PairOptions = job.config
        newest = job.checkpoints.newest()
        total = self.counts(range(len(self.pairs)))
        common = {
            "shared_prompts": self.layout.share_prompts,
            "template_sha256": self.template.sha256,
            "batch_size": options.batch_size,
        }
        return TrainingStarted(
            stage=job.stage,
            technique=job.technique,
            steps=self.order.steps,
            epochs=options.epochs,
            rows=len(self.pairs),
            tokens=total.tokens,
            trained_tokens=total.trained_tokens,
            trainable_parameters=self.adapted.num_trainable_parameters,
            parameters=self.adapted.num_parameters,
            device=str(self.adapted.base.model.device),
            precision=f"{self.adapted.precision.name}: {self.adapted.precision.reason}",
            details={**self.adapted.details, **details, **common},
            first_step=newest.step if newest else 0,
        )

    def training_finished_event(self, job: Job[Any], artifact: Artifact) -> TrainingFinished:
        """Return the event to emit after the artifact is committed."""
        options: PairOptions = job.config
        total = self.counts(range(len(self.pairs)))
        return TrainingFinished(
            stage=job.stage,
            technique=job.technique,
            steps=self.order.steps,
            tokens=round(total.tokens * options.epochs),
            trained_tokens=round(total.trained_tokens * options.epochs),
            seconds=time.perf_counter() - self.started,
            peak_memory_bytes=peak_bytes(self.adapted.base.model.device),
            artifact=str(artifact.path.relative_to(job.out)),
            format=artifact.format,
        )

    def card_job(self, job: Job[Any]) -> Job[Any]:
        """Return the job for the artifact's model card.

        If training began with a full model instead of the run's base, the base's name is dropped.
        """
        full_model = self.initial_model is not None and self.initial_model.format == "model"
        return replace(job, base_name="") if full_model else job


def fitting_pairs(job: Job[Any], template: Template, limit: int) -> list[CompletionGroup]:
    """Tokenize all preferences and keep those of at most ``limit`` tokens; report the others.

    Raises:
        DataError: a record is not a preference, or no pair fits.
    """
    groups = tokenize_pairs(job.train, template)
    fitting = [g for g in groups if len(g.prompt) + max(map(len, g.completions)) <= limit]
    if not fitting:
        raise DataError(
            job.train[0].source if job.train else "data",
            f"no pair can be learned from: none of {len(groups)} has at most {limit} tokens",
            hint="raise technique.max_length, or shorten the rows",
        )
    if len(fitting) < len(groups):
        left_out = f"{len(groups) - len(fitting)} of {len(groups)} pairs are left out of training"
        text = f"{left_out}: longer than {limit} tokens"
        job.emit(Notice(level="warning", source="data", message=text))
    return fitting
