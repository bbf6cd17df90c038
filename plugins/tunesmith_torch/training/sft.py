"""Supervised fine-tuning as a composition: a way to adapt, and the next-token objective."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError
from tunesmith.events import Noticed, Trained, TrainingStarted
from tunesmith_torch.data.templates import Examples, Template, template_override
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.models.loading import (
    Base,
    context_of_config,
    load_config,
    load_tokenizer,
    recompute_activations,
)
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.models.self_check import refuse_disagreement
from tunesmith_torch.optim import adamw
from tunesmith_torch.optim.schedule import Order
from tunesmith_torch.options.training import FitOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import Precision, pick_device, pick_precision
from tunesmith_torch.runtime.memory import peak_bytes, reset_peak
from tunesmith_torch.training.auto_batch import settle
from tunesmith_torch.training.loop import fit
from tunesmith_torch.training.sft_objective import Supervised

Adapt = Callable[[Base, Precision], Adapted]


def _as_it_is(adapted: Adapted) -> Adapted:
    return adapted


@distributed.together
def supervise(
    job: Job[Any],
    adapt: Adapt,
    quantization: Quantization | None = None,
    whole: Callable[[Adapted], Adapted] = _as_it_is,
) -> Artifact:
    """Load, adapt, train on next tokens, and commit the artifact: what ``whole`` makes of it.

    Raises:
        DataError: no record can be learned from.
        EnvironmentProblem: the fast path computes something else than the model does.
        TrainingError: see :func:`tunesmith_torch.training.loop.fit`.
    """
    job = settle(job)
    options: FitOptions = job.config
    device = pick_device(job.device)
    precision = pick_precision(device, options.precision)
    adamw.require(options.optimizer, device)
    reset_peak(device)
    limit = min(options.max_length, context_of_config(load_config(job.model)))
    tokenizer = load_tokenizer(job.model)
    template = Template.of(tokenizer, template_override(options))
    with ThreadPoolExecutor(1) as beside:  # rows become tokens while weights are read
        tokenising = beside.submit(
            template.examples_or_left_out,
            job.train,
            limit,
            truncate_prompts=options.truncate_prompts,
        )
        base = load_model(
            job.model,
            device,
            precision,
            packing=options.packing,
            quantization=quantization,
            fused_kernels=options.fused_kernels,
            tokenizer=tokenizer,
        )
    examples = _usable(job, tokenising.result(), limit)
    adapted = adapt(base, precision)
    refuse_disagreement(adapted, packing=options.packing)
    if options.gradient_checkpointing:
        recompute_activations(base.model)
    objective = Supervised(adapted, examples.examples, packing=options.packing)
    job.emit(_announcement(job, adapted, examples, template))
    started = time.perf_counter()
    fit(job, adapted, objective, seed=job.seed)
    seconds = time.perf_counter() - started
    artifact = artifacts.save(job, whole(adapted), template)
    job.emit(
        Trained(
            stage=job.name,
            technique=job.technique,
            steps=_order(job, examples).steps,
            tokens=round(examples.tokens * options.epochs),
            trained_tokens=round(examples.trained_tokens * options.epochs),
            seconds=seconds,
            peak_memory_bytes=peak_bytes(device),
            artifact=str(artifact.path.relative_to(job.out)),
            format=artifact.format,
        )
    )
    return artifact


def _usable(job: Job[Any], examples: Examples, limit: int) -> Examples:
    """What can be learned from; what does not fit is told, never dropped without a word."""
    for notice in _notices(examples, limit):
        job.emit(notice)
    if not examples.examples:
        first = examples.left_out[0] if examples.left_out else None
        raise DataError(
            first.where if first else "data",
            f"no row can be learned from: {first.cause}, {first.detail}" if first else "no rows",
            hint=f"rows may have {limit} tokens (technique.max_length, and the model's context)",
        )
    return examples


def _notices(examples: Examples, limit: int) -> Iterator[Noticed]:
    causes = Counter(row.cause for row in examples.left_out)
    for cause, count in causes.items():
        first = next(row for row in examples.left_out if row.cause == cause)
        text = f"{count} rows are left out of training: {cause}; first: {first.where}"
        yield Noticed(level="warning", source="data", message=f"{text} ({first.detail})")
    if examples.shortened:
        text = f"{examples.shortened} prompts were shortened to fit {limit} tokens"
        yield Noticed(level="warning", source="data", message=text)
    if examples.divided:
        text = f"{examples.divided} texts were longer than {limit} tokens and became several rows"
        yield Noticed(level="info", source="data", message=text)
    if examples.control:
        text = f"{examples.control} rows contain control tokens as text; they stay plain text"
        yield Noticed(level="info", source="data", message=text)


def _order(job: Job[Any], examples: Examples) -> Order:
    return Order.of(len(examples.examples), job.config, job.seed)


def _announcement(
    job: Job[Any], adapted: Adapted, examples: Examples, template: Template
) -> TrainingStarted:
    options: FitOptions = job.config
    newest = job.checkpoints.newest()
    return TrainingStarted(
        stage=job.name,
        technique=job.technique,
        steps=_order(job, examples).steps,
        epochs=options.epochs,
        rows=len(examples.examples),
        tokens=examples.tokens,
        trained_tokens=examples.trained_tokens,
        trainable_parameters=adapted.trainable_parameters,
        parameters=adapted.parameters,
        device=str(adapted.base.model.device),
        precision=f"{adapted.precision.name}: {adapted.precision.why}",
        details={
            **adapted.details,
            "template_sha256": template.sha256,
            "batch_size": options.batch_size,
            "micro_batch_tokens": options.micro_batch_tokens,
        },
        first_step=newest.step if newest else 0,
    )
