"""Merge an adapter into its base model, and check the result before it is kept.

Shapes: N prompts, V vocabulary, O outputs, I inputs of a layer.

An adapter that was trained over quantized weights has compensated for their rounding errors, so it
is merged into the *dequantized* weights, those that it was trained with. It would no longer fit the
original weights, and quantizing the sum again would round most of the update away. The merged model
is read back from disk and compared with the trained one before anything is committed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import GateError, IntegrityError, UsageError
from tunesmith.records import Prompt
from tunesmith.storage import commit_folder, read_manifest, verify_folder
from tunesmith.storage.manifest import MANIFEST
from tunesmith_evidence.number_text import format_deviation
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.artifacts import ADAPTER_WEIGHTS, attach_adapter
from tunesmith_torch.models.earlier_config_keys import write_earlier_keys
from tunesmith_torch.models.loading import (
    LoadedBase,
    load_base,
    load_config,
    load_tokenizer,
    no_progress_bars,
)
from tunesmith_torch.models.quantization import (
    Quantization,
    compute_in_float32,
    dequantize,
    load_quantized,
    quantized_layers,
)
from tunesmith_torch.runtime.malloc import release_memory

MERGED = "merged"
"""Format of a merged model in its manifest."""
_ADAPTER_ONLY_FILES = frozenset({ADAPTER_WEIGHTS, "adapter_config.json", "README.md", MANIFEST})


@dataclass(frozen=True)
class MergeOptions:
    """Options of a merge, with a bound on the difference between result and trained model."""

    device: torch.device
    dtype: torch.dtype
    """Format of the computation in which the adapter was trained."""
    quantization: Quantization | None = None
    """Storage format of the base while the adapter was trained; None: not quantized."""
    into: Literal["dequantized", "original"] = "dequantized"
    max_kl: float = 1e-3
    """Largest mean KL divergence, in nats, with which the result is kept."""


@dataclass(frozen=True)
class MergedModel:
    """A merged model: its folder, and what was measured on it."""

    path: Path
    kl: float
    """Mean KL divergence of its next-token distributions from those of the adapter, in nats."""
    prompts: int
    """Number of prompts on which it was measured."""
    dtype: str


def merge_adapter(
    base: Path, adapter: Path, out: Path, prompts: Sequence[Prompt], options: MergeOptions
) -> MergedModel:
    """Write the sum of base and adapter to ``out``, in the base's own format.

    Afterwards ``out`` is complete, or as it was before.

    Raises:
        GateError: the next-token distributions of the merged model differ by more than ``max_kl``.
        IntegrityError: the adapter's files changed after saving, or belong to another base.
    """
    refuse_other_folder(out, MERGED, adapter)
    problems = verify_folder(adapter)
    if problems:
        raise IntegrityError(f"{adapter}: {problems[0]}")
    rows = Template.from_tokenizer(load_tokenizer(adapter)).encode_prompts(prompts)
    trained_NV = _adapter_logprobs(base, adapter, rows, options)
    release_memory()
    dtype = load_config(base).dtype or torch.float32
    measured: list[float] = []

    def write(folder: Path) -> None:
        save_merged(base, adapter, folder, options, dtype)
        for file in sorted(adapter.iterdir()):
            if file.is_file() and file.name not in _ADAPTER_ONLY_FILES:
                shutil.copyfile(file, folder / file.name)
        reloaded = load_base(folder, device=options.device, dtype=torch.float32).model
        measured.append(mean_kl(trained_NV, next_token_logprobs(reloaded, rows)))
        _check_kl(measured[0], options)
        (folder / "README.md").write_text(
            _model_card(base, options, measured[0], len(rows)), "utf-8"
        )

    commit_folder(out, write, {"format": MERGED})
    return MergedModel(out, measured[0], len(rows), str(dtype).removeprefix("torch."))


def refuse_other_folder(out: Path, kind: str, artifact: Path) -> None:
    """Check that writing to ``out`` replaces nothing but a folder of the same kind.

    A folder with a manifest may be an adapter or a checkpoint, which nothing can bring back.
    ``artifact`` is the trained model, whose own folder stays as its manifest says.

    Raises:
        IntegrityError: the manifest in ``out`` is damaged, or none of tunesmith.
        UsageError: ``out`` holds something else, or lies inside the trained model.
    """
    hint = "choose another name with --out"
    if artifact.resolve() in out.resolve().parents:
        raise UsageError(f"{out}: lies inside the trained model, which stays as it is", hint=hint)
    if not (out / MANIFEST).is_file():
        return
    found = read_manifest(out).meta.get("format")
    if found != kind:
        held = {"adapter": "an adapter", "model": "a trained model", "export": "an export"}
        raise UsageError(
            f"{out}: holds {held.get(str(found), 'something else')}, so it is not replaced",
            hint=hint,
        )


def save_merged(
    base: Path, adapter: Path, folder: Path, options: MergeOptions, dtype: torch.dtype
) -> None:
    """Write config and weights of the sum of base and adapter, in ``dtype``."""
    model = _merge(base, adapter, options).to(dtype)
    _untie_changed_head(model)
    with no_progress_bars():
        model.save_pretrained(folder)
    write_earlier_keys(folder)
    del model
    release_memory()


@torch.inference_mode()
def next_token_logprobs(model: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the log-probabilities of the token after each row, [N, V], in float64 on the CPU."""
    device = next(model.parameters()).device
    logprobs = []
    for ids in rows:
        logits_1V = model(torch.tensor([ids], device=device), use_cache=False).logits[:, -1]
        logprobs.append(logits_1V.double().log_softmax(-1).cpu())
    return torch.cat(logprobs)


def mean_kl(true_logprobs_NV: Tensor, other_logprobs_NV: Tensor) -> float:
    """Return the mean Kullback-Leibler divergence KL(true || other), in nats."""
    return float((true_logprobs_NV.exp() * (true_logprobs_NV - other_logprobs_NV)).sum(-1).mean())


def _adapter_logprobs(
    base: Path, adapter: Path, rows: Sequence[Sequence[int]], options: MergeOptions
) -> Tensor:
    """Return the adapter's next-token log-probabilities over the base that it was trained on."""
    return next_token_logprobs(attach_adapter(load_training_base(base, options), adapter), rows)


def load_training_base(base: Path, options: MergeOptions) -> LoadedBase:
    """Load the base with exactly the weights that were used in training, in float32.

    Computing in bfloat16 alone changes distributions by more than a merge may.
    """
    if options.quantization is None:
        loaded = load_base(base, device=options.device, dtype=options.dtype)
        loaded.model.float()
    else:
        loaded = load_quantized(
            base, options.quantization, device=options.device, dtype=options.dtype
        )
        compute_in_float32(loaded.model)
    return loaded


def _merge(base: Path, adapter: Path, options: MergeOptions) -> PreTrainedModel:
    """Return the sum of base and adapter, added in float32."""
    if options.into == "dequantized":
        dequantized_base = _load_dequantized(base, options)
    else:
        dequantized_base = load_base(base, device=options.device, dtype=torch.float32)
    model: PreTrainedModel = attach_adapter(dequantized_base, adapter).merge_and_unload(
        safe_merge=True
    )
    return model


def _load_dequantized(base: Path, options: MergeOptions) -> LoadedBase:
    """Return the weights that were used in training, as ordinary matrices."""
    training_base = load_training_base(base, options)
    if options.quantization is None:
        return training_base
    dequantized_base = load_base(base, device=options.device, dtype=options.dtype)
    dequantized_base.model.float()
    with torch.no_grad():
        for name, layer in quantized_layers(training_base.model).items():
            target: Any = dequantized_base.model.get_submodule(name)
            weight_OI = dequantize(layer, torch.float32)
            target.weight.copy_(weight_OI.T if isinstance(target, Conv1D) else weight_OI)
    return dequantized_base


def _untie_changed_head(model: PreTrainedModel) -> None:
    """Store the head as a separate matrix if it no longer equals the embeddings."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    config = model.config.get_text_config()
    if head is None or not config.tie_word_embeddings:
        return
    if head.weight is embeddings.weight or torch.equal(head.weight, embeddings.weight):
        model.tie_weights()
        return
    model.config.tie_word_embeddings = config.tie_word_embeddings = False


def _check_kl(kl: float, options: MergeOptions) -> None:
    if kl <= options.max_kl:
        return
    hint = "raise --max-kl to accept a larger difference"
    if options.quantization is not None and options.into == "original":
        hint = "the adapter was trained over quantized weights: merge with --into dequantized"
    raise GateError(
        f"merged model: next-token distributions differ by {format_deviation(kl)} nats from the "
        f"trained model, at most {format_deviation(options.max_kl)} is allowed, nothing was "
        "written",
        hint=hint,
    )


def _model_card(base: Path, options: MergeOptions, kl: float, prompts: int) -> str:
    weights = "its" if options.quantization is None else f"its {options.into}"
    return f"""---
library_name: transformers
tags: [tunesmith, merged]
---

# {base.name}, fine-tuned

An adapter merged into {weights} base weights with tunesmith.
Read back from disk, its next-token distributions differ by {format_deviation(kl)} nats (mean
Kullback-Leibler divergence over {prompts} prompts) from those of the base model with the separate
adapter.
"""
