"""Trace a plain training loop with transformers, PEFT and torch, to verify memory estimates.

Most published memory measurements come from such a loop. A padded batch goes through the model in
one pass, the loss reads all logits in fp32, and this toolkit's own training code is not used. The
loop is traced with the same tools as this toolkit's training step, so published measurements verify
those tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith_torch.runtime import peft_import  # must precede peft

# isort: split
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, get_peft_model

from tunesmith_torch.memory_estimate import gpu_substitutes, meta_model
from tunesmith_torch.memory_estimate.allocation_recorder import AllocationRecorder, track_layers
from tunesmith_torch.memory_estimate.model_shape import ModelShape
from tunesmith_torch.memory_estimate.timeline import TRACED_LAYERS, NonUniformLayersError
from tunesmith_torch.memory_estimate.trace import StepTrace, fake_tensors, record_model_tensors
from tunesmith_torch.models.loading import enable_gradient_checkpointing

STEPS = 2
"""Number of steps to trace: AdamW's moments only exist from the second step on."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of the plain training loop."""

    batch: int
    """Number of rows per step."""
    sequence: int
    """Number of tokens of the longest row."""
    adapter: Mapping[str, Any] | None = None
    """Fields of a PEFT config, including ``peft_type``; None if all weights are trained."""
    gradient_checkpointing: bool = False
    four_bits: Literal["", "nf4", "nf4-dq"] = ""
    use_cache: bool = False
    """True to keep the forward pass's keys and values, the default of transformers' models."""
    padded: bool = True
    """True if rows differ in length, which makes attention need a mask."""
    foreach: bool = True
    """True for AdamW over lists of parameters, torch's default on a GPU; False for one kernel."""
    adapter_dtype: Literal["float32", "bfloat16"] = "float32"
    keeps_output: bool = True
    """True if the model's output, with the logits, stays in memory until the next output exists."""


def trace(config: Mapping[str, Any], loop: LoopConfig) -> StepTrace:
    """Trace two steps of the model.

    If the layers are alike, only a few are traced, and the timeline is stretched to all layers.
    """
    layers = ModelShape.from_config(config).layers
    if layers <= TRACED_LAYERS or _varies_by_layer(loop.adapter):
        return trace_layers(config, loop, layers)
    try:
        partial = trace_layers(config, loop, TRACED_LAYERS)
        return StepTrace(partial.timeline.stretch_to_layers(layers), 0, 0)
    except NonUniformLayersError:
        return trace_layers(config, loop, layers)


def trace_layers(config: Mapping[str, Any], loop: LoopConfig, layers: int) -> StepTrace:
    """Trace two steps of the model with this number of layers."""
    model = _build_model(meta_model.make_meta_config(config, layers), loop)
    recorder = AllocationRecorder(gpu_substitutes.GPU_WORKSPACES)
    base = cast(PreTrainedModel, model.get_base_model() if loop.adapter else model)  # type: ignore[operator]
    ids_BT = torch.zeros(loop.batch, loop.sequence, dtype=torch.long)
    mask_BT = torch.ones_like(ids_BT) if loop.padded else None
    with fake_tensors(gpu=True, autocast=False):
        meta_model.materialize(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        with recorder.recording():
            record_model_tensors(recorder, model, base, adapters=loop.adapter is not None)
            handles = track_layers(base.get_decoder().layers, recorder)
            _run_steps(model, trained, (ids_BT, mask_BT), loop, recorder)
        for handle in handles:
            handle.remove()
    return StepTrace(
        recorder.timeline.with_block_labels(recorder.labels),
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in trained),
    )


def _run_steps(
    model: nn.Module,
    trained: list[nn.Parameter],
    inputs: tuple[Tensor, Tensor | None],
    loop: LoopConfig,
    recorder: AllocationRecorder,
) -> None:
    optimizer = torch.optim.AdamW(
        trained, lr=1e-4, foreach=loop.foreach or None, fused=not loop.foreach or None
    )
    ids_BT, mask_BT = inputs
    output = None
    for step in range(STEPS):
        optimizer.zero_grad()
        with recorder.phase(f"{step}.0.forward"):
            output = model(
                input_ids=ids_BT, attention_mask=mask_BT, labels=ids_BT, use_cache=loop.use_cache
            )
            loss = output.loss
            if not loop.keeps_output:
                output = None
        with recorder.phase(f"{step}.0.backward"):
            loss.backward()
        recorder.label_blocks((p.grad for p in trained), "gradients")
        with recorder.phase(f"{step}.clip", flat=True):
            nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        with recorder.phase(f"{step}.step", flat=True):
            optimizer.step()
        moments = (v for s in optimizer.state.values() for v in s.values())
        recorder.label_blocks((v for v in moments if isinstance(v, Tensor)), "optimizer")
    del output


def _build_model(config: PretrainedConfig, loop: LoopConfig) -> nn.Module:
    attention = gpu_substitutes.register_attention(gpu=True, packed=False)
    model = meta_model.make_meta_model(config, torch.bfloat16, attention)
    if loop.four_bits:
        meta_model.quantize_4bit(model, double=loop.four_bits == "nf4-dq", dtype=torch.bfloat16)
    with torch.random.fork_rng(devices=[]):
        prepared: nn.Module = model
        if loop.adapter is not None:
            model.requires_grad_(False)
            use_fp32 = loop.adapter_dtype == "float32"
            prepared = _add_adapter(model, loop.adapter, use_fp32=use_fp32)
    if loop.gradient_checkpointing:
        enable_gradient_checkpointing(model)
        model.enable_input_require_grads()
    return prepared.train()


def _add_adapter(model: PreTrainedModel, fields: Mapping[str, Any], *, use_fp32: bool) -> nn.Module:
    """Return the model with its adapter.

    An initialization computed from the weights fails on the meta device. It is replaced with a
    random one, which rarely changes a size.
    """
    with peft_import.without_unused_bitsandbytes():
        return _adapt(model, fields, use_fp32=use_fp32)


def _adapt(model: PreTrainedModel, fields: Mapping[str, Any], *, use_fp32: bool) -> nn.Module:
    adapted: nn.Module
    try:
        adapted = get_peft_model(model, peft_config(fields), autocast_adapter_dtype=use_fp32)
    except (RuntimeError, NotImplementedError):
        random_init = {
            name: True if name.startswith("init_") and isinstance(value, str) else value
            for name, value in fields.items()
        }
        if random_init == dict(fields):
            raise
        adapted = get_peft_model(model, peft_config(random_init), autocast_adapter_dtype=use_fp32)
    return adapted


def peft_config(fields: Mapping[str, Any]) -> PeftConfig:
    """Return a PEFT config with the fields that the installed PEFT knows.

    A config that AdaLoRA has saved has the ranks after training, which are not used here.
    """
    config_class: type[PeftConfig] = PEFT_TYPE_TO_CONFIG_MAPPING[str(fields["peft_type"])]
    known = set(config_class.__dataclass_fields__) - {"peft_type", "auto_mapping", "peft_version"}
    values = {name: value for name, value in fields.items() if name in known and value is not None}
    if fields["peft_type"] == "ADALORA":
        values.pop("rank_pattern", None)
    return config_class(**{**values, "task_type": "CAUSAL_LM", "inference_mode": False})


def _varies_by_layer(adapter: Mapping[str, Any] | None) -> bool:
    """Return True if the adapter differs between layers."""
    if adapter is None:
        return False
    names = ("layers_to_transform", "layer_replication", "layers_pattern", "adapter_layers")
    return any(adapter.get(name) for name in names)
