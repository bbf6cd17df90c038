"""Adapters folded into their base model: one ordinary model folder, checked before it is kept.

Shapes: N prompts, V vocabulary.

An adapter that was trained over quantised weights has learned around their rounding errors, so it
goes into the *dequantised* weights, the ones that it saw. Into the original ones it would no longer
fit, and quantising the sum again would round most of the update away. What was written is read
back from disk and compared with what was trained, before anything is committed.
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

from tunesmith.errors import GateError, IntegrityError
from tunesmith.records import Prompt
from tunesmith.storage import commit_folder, verify
from tunesmith.storage.manifest import MANIFEST
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.artifacts import ADAPTER_WEIGHTS, attach_adapter
from tunesmith_torch.models.loading import (
    Base,
    load_base,
    load_config,
    load_tokenizer,
    no_progress_bars,
)
from tunesmith_torch.models.quantization import (
    Quantization,
    compute_in_float32,
    dequantized,
    load_quantized,
    quantized_layers,
)
from tunesmith_torch.runtime.malloc import let_go

_ADAPTER_ONLY = frozenset({ADAPTER_WEIGHTS, "adapter_config.json", "README.md", MANIFEST})


@dataclass(frozen=True)
class Merging:
    """How to merge, and how far the result may be from what was trained."""

    device: torch.device
    dtype: torch.dtype
    """Format of the arithmetic in which the adapter was trained."""
    quantization: Quantization | None = None
    """How the base was stored while the adapter was trained; None: as it is."""
    into: Literal["dequantised", "original"] = "dequantised"
    max_kl: float = 1e-3


@dataclass(frozen=True)
class Merged:
    """A merged model: its folder, and what was measured on it."""

    path: Path
    kl: float
    """Mean divergence of next-token distributions from the adapter's, in nats."""
    prompts: int
    dtype: str


def merge_adapter(
    base: Path, adapter: Path, out: Path, prompts: Sequence[Prompt], how: Merging
) -> Merged:
    """Write base plus adapter to ``out`` in the base's own format, if it says the same.

    ``out`` is there afterwards in full, or as it was before.

    Raises:
        GateError: the merged model's next-token distributions are further off than ``max_kl``.
        IntegrityError: the adapter is not what was saved, or not of this base.
    """
    problems = verify(adapter)
    if problems:
        raise IntegrityError(f"{adapter}: {problems[0]}")
    rows = Template.of(load_tokenizer(adapter)).prompts_ids(prompts)
    trained_NV = _trained(base, adapter, rows, how)
    let_go()
    dtype = load_config(base).dtype or torch.float32
    measured: list[float] = []

    def write(folder: Path) -> None:
        model = _merged(base, adapter, how).to(dtype)
        _settle_ties(model)
        with no_progress_bars():
            model.save_pretrained(folder)
        del model
        let_go()
        for file in sorted(adapter.iterdir()):
            if file.is_file() and file.name not in _ADAPTER_ONLY:
                shutil.copyfile(file, folder / file.name)
        read = load_base(folder, device=how.device, dtype=torch.float32).model
        measured.append(divergence(trained_NV, next_logprobs(read, rows)))
        _refuse_other(measured[0], how)
        (folder / "README.md").write_text(_card(base, how, measured[0], len(rows)), "utf-8")

    commit_folder(out, write, {"format": "model"})
    return Merged(out, measured[0], len(rows), str(dtype).removeprefix("torch."))


@torch.inference_mode()
def next_logprobs(model: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """Log-probabilities of every token after each row, [N, V], in float64 on the CPU."""
    device = next(model.parameters()).device
    found = []
    for ids in rows:
        logits_1V = model(torch.tensor([ids], device=device), use_cache=False).logits[:, -1]
        found.append(logits_1V.double().log_softmax(-1).cpu())
    return torch.cat(found)


def divergence(true_NV: Tensor, other_NV: Tensor) -> float:
    """Mean Kullback-Leibler divergence of log-distributions, in nats."""
    return float((true_NV.exp() * (true_NV - other_NV)).sum(-1).mean())


def _trained(base: Path, adapter: Path, rows: Sequence[Sequence[int]], how: Merging) -> Tensor:
    """What the adapter says over the base that it was trained on."""
    return next_logprobs(attach_adapter(_seen(base, how), adapter), rows)


def _seen(base: Path, how: Merging) -> Base:
    """The base with the very weights that training saw, in float32.

    Arithmetic in bfloat16 alone moves distributions by more than a merge may.
    """
    if how.quantization is None:
        opened = load_base(base, device=how.device, dtype=how.dtype)
        opened.model.float()
    else:
        opened = load_quantized(base, how.quantization, device=how.device, dtype=how.dtype)
        compute_in_float32(opened.model)
    return opened


def _merged(base: Path, adapter: Path, how: Merging) -> PreTrainedModel:
    """Base plus adapter, added up in float32."""
    if how.into == "dequantised":
        plain = _plain(base, how)
    else:
        plain = load_base(base, device=how.device, dtype=torch.float32)
    model: PreTrainedModel = attach_adapter(plain, adapter).merge_and_unload(safe_merge=True)
    return model


def _plain(base: Path, how: Merging) -> Base:
    """The weights that training saw, as ordinary matrices."""
    seen = _seen(base, how)
    if how.quantization is None:
        return seen
    plain = load_base(base, device=how.device, dtype=how.dtype)
    plain.model.float()
    with torch.no_grad():
        for name, layer in quantized_layers(seen.model).items():
            target: Any = plain.model.get_submodule(name)
            target.weight.copy_(dequantized(layer, torch.float32))
    return plain


def _settle_ties(model: PreTrainedModel) -> None:
    """A head that no longer equals the embeddings is stored as a matrix of its own."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    config = model.config.get_text_config()
    if head is None or not config.tie_word_embeddings:
        return
    if head.weight is embeddings.weight or torch.equal(head.weight, embeddings.weight):
        model.tie_weights()
        return
    model.config.tie_word_embeddings = config.tie_word_embeddings = False


def _refuse_other(kl: float, how: Merging) -> None:
    if kl <= how.max_kl:
        return
    hint = "--max-kl allows more"
    if how.quantization is not None and how.into == "original":
        hint = "the adapter was trained over quantised weights: merge it --into dequantised"
    raise GateError(
        f"merged model: its next-token distributions are {kl:.1e} nats from the trained one's, "
        f"at most {how.max_kl:.1e} is allowed, nothing was written",
        hint=hint,
    )


def _card(base: Path, how: Merging, kl: float, prompts: int) -> str:
    weights = "its" if how.quantization is None else f"its {how.into}"
    return f"""---
library_name: transformers
tags: [tunesmith, merged]
---

# {base.name}, fine-tuned

An adapter folded into {weights} base weights with tunesmith.
Read back from disk, its next-token distributions are {kl:.1e} nats (mean Kullback-Leibler
divergence over {prompts} prompts) from those of the base model with the adapter beside it.
"""
