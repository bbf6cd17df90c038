"""Supervised fine-tuning as a composition: a way to adapt, and the next-token objective."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.events import Noticed, Trained, TrainingStarted
from tunesmith_torch import artifacts, attention, branches, moments, norms, ranks
from tunesmith_torch.adapt import Adapted
from tunesmith_torch.device import Precision, pick_device, pick_precision
from tunesmith_torch.fit import fit
from tunesmith_torch.load import (
    Base,
    load_base,
    load_config,
    load_tokenizer,
    recompute_activations,
)
from tunesmith_torch.memory import peak_bytes, reset_peak
from tunesmith_torch.options import FitOptions
from tunesmith_torch.positions import disagreement
from tunesmith_torch.quantize import Quantization, load_quantized
from tunesmith_torch.schedule import Order
from tunesmith_torch.settle import settle
from tunesmith_torch.supervised import Supervised
from tunesmith_torch.templates import Examples, Template
from tunesmith_torch.textmodel import TorchTextModel

Adapt = Callable[[Base, Precision], Adapted]

ROUNDING = {torch.float32: 1e-2, torch.bfloat16: 1.0}
"""How many nats two ways to compute one log-probability may be apart. In a model of 135M parameters
rounding to bf16 makes 0.3, rounding to fp32 3e-5, and a row that hears another 2.7. Over a base in
8 bits activations are rounded to 8 bits too, whatever they are computed in: 0.4."""


def _as_it_is(adapted: Adapted) -> Adapted:
    return adapted


@ranks.together
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
        TrainingError: see :func:`tunesmith_torch.fit.fit`.
    """
    job = settle(job)
    options: FitOptions = job.config
    device = pick_device(job.device)
    precision = pick_precision(device, options.precision)
    moments.require(options.optimizer, device)
    reset_peak(device)
    limit = min(options.max_tokens, _context(load_config(job.model)))
    tokenizer = load_tokenizer(job.model)
    template = Template.of(tokenizer, template_override(options))
    with ThreadPoolExecutor(1) as beside:  # rows become tokens while weights are read
        tokenising = beside.submit(
            template.examples_or_left_out, job.train, limit, cut_prompts=options.cut_prompts
        )
        base = load_model(
            job.model,
            device,
            precision,
            packing=options.packing,
            quantization=quantization,
            lean=options.lean,
            tokenizer=tokenizer,
        )
    examples = _usable(job, tokenising.result(), limit)
    adapted = adapt(base, precision)
    refuse_disagreement(adapted, packing=options.packing)
    if options.checkpointing:
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


def open_text_model(
    model: Path,
    artifact: Path | None,
    *,
    device: str,
    options: FitOptions,
    quantization: Quantization | None = None,
) -> TextModel:
    """The base model, or what was trained from it, read from disk."""
    place = pick_device(device)
    precision = pick_precision(place, options.precision)
    adapter = artifact is not None and artifacts.artifact_format(artifact) == "adapter"
    folder = model if adapter or artifact is None else artifact
    base = load_model(
        folder,
        place,
        precision,
        packing=options.packing,
        quantization=quantization,
        lean=options.lean,
    )
    net: nn.Module = base.model
    if adapter and artifact is not None:
        net = artifacts.attach_adapter(base, artifact, lean=options.lean)
    return TorchTextModel(net, Template.of(base.tokenizer, template_override(options)), place)


def load_model(  # noqa: PLR0913 - what a model is loaded for
    folder: Path,
    device: torch.device,
    precision: Precision,
    *,
    packing: bool,
    quantization: Quantization | None = None,
    lean: bool = True,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Base:
    """A base model whose attention can take packed rows and shared beginnings, if wanted.

    ``lean``: with norms that take fewer passes, see :mod:`tunesmith_torch.norms`.
    ``tokenizer``: the folder's, where it has been read already.
    """
    if packing:
        attention.register()
    name = branches.register() if packing else "sdpa"
    read = partial(load_quantized, quantization=quantization) if quantization else load_base
    base = read(folder, device=device, dtype=precision.dtype, attention=name, tokenizer=tokenizer)
    if lean:
        norms.use(base.model)
    return base


def refuse_disagreement(adapted: Adapted, *, packing: bool) -> None:
    """Ask the model itself, once, whether packing and trimming leave its answers as they are.

    Raises:
        EnvironmentProblem: they do not.
    """
    with adapted.arithmetic():
        nats = disagreement(adapted.model, packed=packing)
    eight_bits = getattr(adapted.base.model, "is_loaded_in_8bit", False)
    if nats <= ROUNDING[torch.bfloat16 if eight_bits else adapted.precision.dtype]:
        return
    hint = "set packing = false" if packing else "this architecture cannot be trained here yet"
    raise EnvironmentProblem(
        f"technique: log-probabilities of {type(adapted.base.model).__name__} should not depend on "
        f"how rows are laid out, got {nats:.2g} nats apart",
        hint=hint,
    )


def context_of(base: Base) -> int:
    """The most tokens that the model was made for."""
    return _context(base.config)


def _context(config: PretrainedConfig) -> int:
    return int(config.get_text_config().max_position_embeddings)


def template_override(options: FitOptions) -> str | None:
    """The chat template that the options name, or None for the model's own.

    Raises:
        UsageError: the file cannot be read.
    """
    if options.chat_template is None:
        return None
    try:
        return Path(options.chat_template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"technique.chat_template: cannot be read, {error}") from None


def _usable(job: Job[Any], examples: Examples, limit: int) -> Examples:
    """What can be learned from; what does not fit is told, never dropped without a word."""
    for notice in _notices(examples, limit):
        job.emit(notice)
    if not examples.examples:
        first = examples.left_out[0] if examples.left_out else None
        raise DataError(
            first.where if first else "data",
            f"no row can be learned from: {first.cause}, {first.detail}" if first else "no rows",
            hint=f"rows may have {limit} tokens (technique.max_tokens, and the model's context)",
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
            "batch": options.batch,
            "micro_tokens": options.micro_tokens,
        },
        first_step=newest.step if newest else 0,
    )
