"""Supervised fine-tuning: the skeleton that the techniques ``full``, ``lora`` and ``qlora`` share.

A technique passes ``adapt``, which chooses the trainable weights; the objective is always the next
token (:mod:`tunesmith_torch.training.sft_objective`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError
from tunesmith.events import Notice, TrainingFinished, TrainingStarted
from tunesmith_torch.data.templates import Template, TokenizedRecords, read_chat_template
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.loading import (
    LoadedBase,
    config_context_length,
    enable_gradient_checkpointing,
    load_config,
    load_tokenizer,
)
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.models.self_check import check_logprobs
from tunesmith_torch.optim import adamw
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import Precision, pick_device, pick_precision
from tunesmith_torch.runtime.memory import peak_bytes, reset_peak
from tunesmith_torch.training.auto_batch import resolve_auto
from tunesmith_torch.training.loop import run_training_loop
from tunesmith_torch.training.sft_objective import NextTokenObjective

Adapt = Callable[[LoadedBase, Precision], AdaptedModel]


def _identity(adapted: AdaptedModel) -> AdaptedModel:
    return adapted


@distributed.on_all_ranks
def train_supervised(
    job: Job[Any],
    adapt: Adapt,
    quantization: Quantization | None = None,
    finalize: Callable[[AdaptedModel], AdaptedModel] = _identity,
) -> Artifact:
    """Load, adapt, train on the next token, and commit the artifact.

    ``finalize`` turns the trained model into the one that is saved, a merged adapter for example.

    Raises:
        DataError: no record can be trained on.
        EnvironmentProblem: the fast kernels and the plain model disagree.
        TrainingError: see :func:`tunesmith_torch.training.loop.run_training_loop`.
    """
    job = resolve_auto(job)
    options: TrainingOptions = job.config
    device = pick_device(job.device)
    precision = pick_precision(device, options.precision)
    adamw.check_available(options.optimizer, device)
    reset_peak(device)
    limit = min(options.max_length, config_context_length(load_config(job.model)))
    tokenizer = load_tokenizer(job.model)
    template = Template.from_tokenizer(tokenizer, read_chat_template(options))
    with ThreadPoolExecutor(1) as executor:  # rows are tokenized while weights are read
        tokenizing = executor.submit(
            template.tokenize_records,
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
    examples = _require_examples(job, tokenizing.result(), limit)
    adapted = adapt(base, precision)
    check_logprobs(adapted, packing=options.packing)
    if options.gradient_checkpointing:
        enable_gradient_checkpointing(base.model)
    objective = NextTokenObjective(adapted, examples.examples, packing=options.packing)
    job.emit(_training_started_event(job, adapted, examples, template))
    started = time.perf_counter()
    run_training_loop(job, adapted, objective, seed=job.seed)
    seconds = time.perf_counter() - started
    artifact = artifacts.save_artifact(job, finalize(adapted), template)
    job.emit(_training_finished_event(job, artifact, examples, seconds, device))
    return artifact


def _require_examples(job: Job[Any], examples: TokenizedRecords, limit: int) -> TokenizedRecords:
    """Report the rows that are left out or changed; refuse data of which nothing is left."""
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


def _notices(examples: TokenizedRecords, limit: int) -> Iterator[Notice]:
    causes = Counter(row.cause for row in examples.left_out)
    for cause, count in causes.items():
        first = next(row for row in examples.left_out if row.cause == cause)
        text = f"{count} rows are left out of training: {cause}; first: {first.where}"
        yield Notice(level="warning", source="data", message=f"{text} ({first.detail})")
    if examples.truncated:
        text = f"{examples.truncated} prompts were shortened to fit {limit} tokens"
        yield Notice(level="warning", source="data", message=text)
    if examples.split_texts:
        text = (
            f"{examples.split_texts} texts were longer than {limit} tokens and became several rows"
        )
        yield Notice(level="info", source="data", message=text)
    if examples.with_control_tokens:
        count = examples.with_control_tokens
        text = f"{count} rows contain control tokens as text; they stay plain text"
        yield Notice(level="info", source="data", message=text)


def _order(job: Job[Any], examples: TokenizedRecords) -> BatchOrder:
    return BatchOrder.from_options(len(examples.examples), job.config, job.seed)


def _training_started_event(
    job: Job[Any], adapted: AdaptedModel, examples: TokenizedRecords, template: Template
) -> TrainingStarted:
    options: TrainingOptions = job.config
    newest = job.checkpoints.newest()
    return TrainingStarted(
        stage=job.stage,
        technique=job.technique,
        steps=_order(job, examples).steps,
        epochs=options.epochs,
        rows=len(examples.examples),
        tokens=examples.tokens,
        trained_tokens=examples.trained_tokens,
        trainable_parameters=adapted.num_trainable_parameters,
        parameters=adapted.num_parameters,
        device=str(adapted.base.model.device),
        precision=f"{adapted.precision.name}: {adapted.precision.reason}",
        details={
            **adapted.details,
            "template_sha256": template.sha256,
            "batch_size": options.batch_size,
            "micro_batch_tokens": options.micro_batch_tokens,
        },
        first_step=newest.step if newest else 0,
    )


def _training_finished_event(
    job: Job[Any],
    artifact: Artifact,
    examples: TokenizedRecords,
    seconds: float,
    device: torch.device,
) -> TrainingFinished:
    options: TrainingOptions = job.config
    return TrainingFinished(
        stage=job.stage,
        technique=job.technique,
        steps=_order(job, examples).steps,
        tokens=round(examples.tokens * options.epochs),
        trained_tokens=round(examples.trained_tokens * options.epochs),
        seconds=seconds,
        peak_memory_bytes=peak_bytes(device),
        artifact=str(artifact.path.relative_to(job.out)),
        format=artifact.format,
    )
