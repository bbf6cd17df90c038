"""A plain training loop: transformers' model and loss, PEFT's adapters, torch's optimizer.

What most published measurements of memory are of. A padded batch goes through the model at once,
the loss reads a table of all logits in fp32, and nothing of this toolkit's own is in it. It is
traced by the same means as our own step, which is how those means are proven.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith_torch.runtime import bitsandbytes  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, get_peft_model

from tunesmith_torch.memory_estimate import gpu_substitutes, meta_model
from tunesmith_torch.memory_estimate.allocation_recorder import Recorder, watch_layers
from tunesmith_torch.memory_estimate.model_shape import Shape
from tunesmith_torch.memory_estimate.timeline import TRACED, NotUniform
from tunesmith_torch.memory_estimate.trace import Traced, nowhere, own
from tunesmith_torch.models.loading import recompute_activations

STEPS = 2
"""In the second, AdamW's means are there."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What such a loop is told."""

    batch: int
    sequence: int
    adapter: Mapping[str, Any] | None = None
    """Fields of a PEFT config, ``peft_type`` among them; None: all weights are trained."""
    gradient_checkpointing: bool = False
    four_bits: Literal["", "nf4", "nf4-dq"] = ""
    use_cache: bool = False
    """Keep keys and values of the forward pass, as models do unless they are told not to."""
    padded: bool = True
    """Rows differ in length, so attention has a mask."""
    foreach: bool = True
    """AdamW over lists of parameters, torch's choice on a GPU, or one fused kernel."""
    adapter_dtype: Literal["float32", "bfloat16"] = "float32"
    keeps_output: bool = True
    """The model's output, logits among it, lives until the next one is there."""


def trace(config: Mapping[str, Any], loop: Loop) -> Traced:
    """The timeline of two steps of the whole model.

    A timeline of a few layers stands for all where that is possible.
    """
    layers = Shape.of(config).layers
    if layers <= TRACED or _by_layer(loop.adapter):
        return trace_layers(config, loop, layers)
    try:
        few = trace_layers(config, loop, TRACED)
        return Traced(few.timeline.stretched(layers), 0, 0)
    except NotUniform:
        return trace_layers(config, loop, layers)


def trace_layers(config: Mapping[str, Any], loop: Loop, layers: int) -> Traced:
    """The timeline of two steps of the model with so many layers."""
    model = _model(meta_model.blank_config(config, layers), loop)
    recorder = Recorder(gpu_substitutes.GPU)
    base = cast(PreTrainedModel, model.get_base_model() if loop.adapter else model)  # type: ignore[operator]
    ids_BT = torch.zeros(loop.batch, loop.sequence, dtype=torch.long)
    mask_BT = torch.ones_like(ids_BT) if loop.padded else None
    with nowhere(gpu=True, autocast=False):
        meta_model.materialise(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        with recorder.recording():
            own(recorder, model, base, adapters=loop.adapter is not None)
            handles = watch_layers(base.get_decoder().layers, recorder)
            _steps(model, trained, (ids_BT, mask_BT), loop, recorder)
        for handle in handles:
            handle.remove()
    return Traced(
        recorder.timeline.labelled(recorder.labels),
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in trained),
    )


def _steps(
    model: nn.Module,
    trained: list[nn.Parameter],
    inputs: tuple[Tensor, Tensor | None],
    loop: Loop,
    recorder: Recorder,
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
        recorder.name((p.grad for p in trained), "gradients")
        with recorder.phase(f"{step}.clip", flat=True):
            nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        with recorder.phase(f"{step}.step", flat=True):
            optimizer.step()
        moments = (v for s in optimizer.state.values() for v in s.values())
        recorder.name((v for v in moments if isinstance(v, Tensor)), "optimizer")
    del output


def _model(config: PretrainedConfig, loop: Loop) -> nn.Module:
    attention = gpu_substitutes.register(gpu=True, packed=False)
    model = meta_model.blank_model(config, torch.bfloat16, attention)
    if loop.four_bits:
        meta_model.quantize(model, double=loop.four_bits == "nf4-dq", dtype=torch.bfloat16)
    with torch.random.fork_rng(devices=[]):
        out: nn.Module = model
        if loop.adapter is not None:
            model.requires_grad_(False)
            wide = loop.adapter_dtype == "float32"
            out = _adapted(model, loop.adapter, wide=wide)
    if loop.gradient_checkpointing:
        recompute_activations(model)
        model.enable_input_require_grads()
    return out.train()


def _adapted(model: PreTrainedModel, fields: Mapping[str, Any], *, wide: bool) -> nn.Module:
    """The model with its adapter. A start that is computed from the weights becomes a random one.

    It needs numbers, and where numbers come from seldom changes a size.
    """
    adapted: nn.Module
    try:
        adapted = get_peft_model(model, peft_config(fields), autocast_adapter_dtype=wide)
    except (RuntimeError, NotImplementedError):
        plain = {
            name: True if name.startswith("init_") and isinstance(value, str) else value
            for name, value in fields.items()
        }
        if plain == dict(fields):
            raise
        adapted = get_peft_model(model, peft_config(plain), autocast_adapter_dtype=wide)
    return adapted


def peft_config(fields: Mapping[str, Any]) -> PeftConfig:
    """A PEFT config from its fields; those that this version of PEFT does not know are dropped."""
    made: type[PeftConfig] = PEFT_TYPE_TO_CONFIG_MAPPING[str(fields["peft_type"])]
    known = set(made.__dataclass_fields__) - {"peft_type", "auto_mapping", "peft_version"}
    given = {name: value for name, value in fields.items() if name in known and value is not None}
    given.pop("rank_pattern", None)
    return made(**{**given, "task_type": "CAUSAL_LM", "inference_mode": False})


def _by_layer(adapter: Mapping[str, Any] | None) -> bool:
    """Whether an adapter is not the same in every layer."""
    if adapter is None:
        return False
    names = ("layers_to_transform", "layer_replication", "layers_pattern", "adapter_layers")
    return any(adapter.get(name) for name in names)
