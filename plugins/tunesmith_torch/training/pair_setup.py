"""What training on pairs of answers has in common, whatever is learned from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError
from tunesmith.events import JSON, Noticed, Trained, TrainingStarted
from tunesmith_torch.data.templates import Template, template_override
from tunesmith_torch.models.adapter_stack import (
    Start,
    adapt_policy,
    base_folder,
    load_policy_base,
    quantization_of,
)
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.models.loading import context_of, recompute_activations
from tunesmith_torch.optim.schedule import Order
from tunesmith_torch.options.preference import PairOptions
from tunesmith_torch.prefix.completion_groups import Group, Layout, groups_of
from tunesmith_torch.prefix.prefix_check import can_share
from tunesmith_torch.runtime.device import pick_device, pick_precision
from tunesmith_torch.runtime.memory import peak_bytes, reset_peak
from tunesmith_torch.training.loop import Counts


@dataclass(frozen=True)
class Ready:
    """A model that is ready to learn from pairs, and the pairs."""

    adapted: Adapted
    template: Template
    pairs: Sequence[Group]
    layout: Layout
    start: Start | None
    order: Order
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, job: Job[Any]) -> Ready:
        """Load and adapt the model, read the pairs.

        Raises:
            DataError: no pair can be learned from.
        """
        options: PairOptions = job.config
        device = pick_device(job.device)
        precision = pick_precision(device, options.precision)
        reset_peak(device)
        start = Start.find(options.start, job.name) if options.start is not None else None
        folder, stored = base_folder(job.model, start), quantization_of(options)
        base = load_policy_base(folder, device, precision, options.packing, stored)
        template = Template.of(base.tokenizer, template_override(options))
        pairs = pairs_of(job, template, min(options.max_length, context_of(base)))
        adapted = adapt_policy(
            base, precision, options, weights=options.weights, start=start, seed=job.seed
        )
        if options.gradient_checkpointing:
            recompute_activations(base.model)
        sharing = options.packing and options.share_prompts and can_share(adapted.model)
        order = Order.of(len(pairs), options, job.seed)
        return cls(adapted, template, pairs, Layout(options.packing, sharing), start, order)

    def counts(self, rows: Sequence[int]) -> Counts:
        """Tokens of the pairs as they are laid out; the loss is divided by the pairs."""
        tokens = int(np.sum([self.layout.size(self.pairs[row]) for row in rows]))
        answers = int(np.sum([self.pairs[row].answer_tokens for row in rows]))
        return Counts(tokens=tokens, trained_tokens=answers, units=len(rows))

    def announcement(self, job: Job[Any], details: JSON) -> TrainingStarted:
        """What there is to say before the first step."""
        options: PairOptions = job.config
        newest = job.checkpoints.newest()
        total = self.counts(range(len(self.pairs)))
        more = {
            "shared_prompts": self.layout.sharing,
            "template_sha256": self.template.sha256,
            "batch_size": options.batch_size,
        }
        return TrainingStarted(
            stage=job.name,
            technique=job.technique,
            steps=self.order.steps,
            epochs=options.epochs,
            rows=len(self.pairs),
            tokens=total.tokens,
            trained_tokens=total.trained_tokens,
            trainable_parameters=self.adapted.trainable_parameters,
            parameters=self.adapted.parameters,
            device=str(self.adapted.base.model.device),
            precision=f"{self.adapted.precision.name}: {self.adapted.precision.why}",
            details={**self.adapted.details, **details, **more},
            first_step=newest.step if newest else 0,
        )

    def ending(self, job: Job[Any], artifact: Artifact) -> Trained:
        """What there is to say when the artifact is committed."""
        options: PairOptions = job.config
        total = self.counts(range(len(self.pairs)))
        return Trained(
            stage=job.name,
            technique=job.technique,
            steps=self.order.steps,
            tokens=round(total.tokens * options.epochs),
            trained_tokens=round(total.trained_tokens * options.epochs),
            seconds=time.perf_counter() - self.began,
            peak_memory_bytes=peak_bytes(self.adapted.base.model.device),
            artifact=str(artifact.path.relative_to(job.out)),
            format=artifact.format,
        )

    def card_job(self, job: Job[Any]) -> Job[Any]:
        """The job as an artifact's card tells it: its base is the model that was started from."""
        whole = self.start is not None and self.start.format == "model"
        return replace(job, base_name="") if whole else job


def pairs_of(job: Job[Any], template: Template, limit: int) -> list[Group]:
    """Every preference as a prompt and two answers; what does not fit is told.

    Raises:
        DataError: a record is no pair, or nothing is left.
    """
    groups = groups_of(job.train, template)
    fitting = [g for g in groups if len(g.prompt) + max(map(len, g.answers)) <= limit]
    if not fitting:
        raise DataError(
            job.train[0].source if job.train else "data",
            f"no pair can be learned from: none of {len(groups)} has at most {limit} tokens",
            hint="raise technique.max_length, or shorten the rows",
        )
    if len(fitting) < len(groups):
        lost = f"{len(groups) - len(fitting)} of {len(groups)} pairs are left out of training"
        text = f"{lost}: longer than {limit} tokens"
        job.emit(Noticed(level="warning", source="data", message=text))
    return fitting
