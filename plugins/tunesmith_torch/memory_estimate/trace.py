"""The training step itself, run on tensors without numbers.

The model is of its real class, adapted by the real code, with the real head, loss, checkpointing
and optimizer; only numbers are missing. One step is run, and told twice: in the second, AdamW's
moments are there. Five layers are traced and the timeline is stretched to the model's depth, or all
layers where they are not alike.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from tunesmith_torch.data.packing import Example
from tunesmith_torch.kernels import block_attention
from tunesmith_torch.losses.selected_positions import base_of, head_of
from tunesmith_torch.memory_estimate import gpu_substitutes, meta_model
from tunesmith_torch.memory_estimate.allocation_recorder import Recorder, watch_layers
from tunesmith_torch.memory_estimate.setting import FP32_MOMENTS, Setting
from tunesmith_torch.memory_estimate.timeline import TRACED, NotUniform, Timeline
from tunesmith_torch.memory_estimate.workload import Workload
from tunesmith_torch.models.adapters import Adapted, adapt_all, adapt_lora
from tunesmith_torch.models.loading import Base, recompute_activations
from tunesmith_torch.optim.master_weights import Masters
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.prefix.common_prefix import collate_branching
from tunesmith_torch.prefix.completion_groups import (
    Answers,
    Group,
    Layout,
    answer_hidden,
    with_ends,
)
from tunesmith_torch.runtime.device import Precision


@dataclass(frozen=True)
class Traced:
    """What a training step allocates and frees."""

    timeline: Timeline
    parameters: int
    trainable: int


def trace(setting: Setting) -> Traced:
    """The timeline of two steps of the whole model."""
    return deepened(setting, lambda layers: trace_layers(setting, layers))


def deepened(setting: Setting, run: Callable[[int], Traced]) -> Traced:
    """A trace of a few layers stretched to all, or of all where they are not alike."""
    layers = setting.shape.layers
    if layers > TRACED:
        try:
            few, fewer = run(TRACED), setting.shape
            timeline = few.timeline.stretched(layers)
        except NotUniform:
            return run(layers)
        more = layers - TRACED
        each = fewer.layer_weights + fewer.layer_rest
        adapters = (few.parameters - few.trainable) and setting.trainable - few.trainable
        grown = few.trainable + (adapters or more * each)
        return Traced(timeline, few.parameters + more * each, grown)
    return run(layers)


def trace_layers(setting: Setting, layers: int) -> Traced:
    """The timeline of two steps of the model with so many layers."""
    config = meta_model.blank_config(setting.config, layers)
    adapted = _adapted(setting, config)
    model = cast(nn.Module, adapted.model)
    gpu = setting.device == "cuda"
    micro_batch = _micro_batch(setting)
    recorder = Recorder(gpu_substitutes.GPU if gpu else gpu_substitutes.CPU)
    with nowhere(gpu=gpu, autocast=setting.method != "full"):
        meta_model.materialise(model)
        with recorder.recording():
            own(recorder, model, base_of(model), adapters=setting.method != "full")
            steps(1, setting, adapted, micro_batch, recorder)
    timeline = recorder.timeline.labelled(recorder.labels).again("0.", "1.")
    if setting.moment_bytes != FP32_MOMENTS:
        timeline = timeline.scaled("optimizer", setting.moment_bytes / FP32_MOMENTS)
    return Traced(
        timeline,
        sum(p.numel() for p in model.parameters()),
        adapted.trainable_parameters,
    )


@contextmanager
def nowhere(*, gpu: bool, autocast: bool) -> Iterator[None]:
    """Tensors that are made inside hold no numbers. Random states are left as they are.

    Attention remembers its masks: none of those with numbers may be met inside, none without after.
    """
    block_attention.forget()
    with ExitStack() as stack:
        stack.callback(block_attention.forget)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        if gpu:
            stack.enter_context(gpu_substitutes.on_gpu(autocast=autocast))
        yield


def own(recorder: Recorder, model: nn.Module, base: Any, *, adapters: bool) -> None:
    """Note what is there before the first step; ``base`` is the model without its adapters."""
    decoder = base.get_decoder()
    numbers = {
        id(tensor): number
        for number, layer in enumerate(decoder.layers)
        for _, tensor in meta_model.stored(layer)
    }
    with recorder.phase("weights", flat=True):
        for _, tensor in meta_model.stored(model):
            trained = isinstance(tensor, nn.Parameter) and tensor.requires_grad
            label = "adapter" if adapters and trained else "weights"
            recorder.own(tensor, label, numbers.get(id(tensor), -1))


def _adapted(setting: Setting, config: PretrainedConfig) -> Adapted:
    """The model as the technique makes it ready."""
    dtype = torch.bfloat16 if setting.width == 2 else torch.float32
    gpu, packed = setting.device == "cuda", setting.options.packing
    name = gpu_substitutes.register(gpu=gpu, packed=packed)
    model = meta_model.blank_model(config, dtype, name)
    if setting.method == "qlora" and setting.bits == 8:
        meta_model.quantize_to_8_bits(model, gpu=gpu)
    elif setting.method == "qlora":
        meta_model.quantize(model, double=setting.bits < 4.3, dtype=dtype)
    if setting.options.fused_kernels:
        meta_model.use_lean_norms(model)
    base = Base(model, cast(Any, None), config, Path())
    precision = Precision(dtype, "planned")
    with torch.random.fork_rng(devices=[]):
        if isinstance(setting.options, LoraOptions):
            adapted = adapt_lora(base, precision, setting.options, 0)
        else:
            adapted = adapt_all(base, precision)
    if setting.options.gradient_checkpointing:
        recompute_activations(model)
    adapted.model.train()
    return adapted


def _micro_batch(setting: Setting) -> Answers:
    """The largest that there can be. It is data: its tensors have numbers."""
    load = setting.load
    rows = [Group([0] * prompt, tuple([0] * n for n in answers)) for prompt, answers in load.micro]
    if load.opening:
        return _with_opening(load)
    layout, numbers = Layout(setting.options.packing, load.grouping.shared), range(len(rows))
    if load.grouping.ends:
        (laid_out,) = with_ends(layout, rows, numbers, sum(map(layout.size, rows)) * 2)
        return laid_out
    return layout.collate(rows, numbers)


def _with_opening(load: Workload) -> Answers:
    """Rows as branches of the opening that they share."""
    examples = [
        Example([0] * load.grouping.size(row), np.arange(load.grouping.size(row)) >= row.prompt)
        for row in load.micro
    ]
    batch, branches = collate_branching(examples, range(len(examples)), load.opening)
    lengths_A = torch.tensor([load.grouping.scored(row) for row in load.micro])
    answer_N = torch.repeat_interleave(torch.arange(len(lengths_A)), lengths_A)
    return Answers(batch, answer_N, lengths_A, batch.rows, branches)


def steps(
    count: int, setting: Setting, adapted: Adapted, micro_batch: Answers, recorder: Recorder
) -> None:
    """What ``fit`` does, on the largest micro-batch, in every step."""
    with recorder.phase("masters", flat=True):
        # Means in 8 bits are made by kernels that need numbers: taken as fp32, and scaled after.
        options = setting.options.model_copy(update={"optimizer": "adamw"})
        masters = Masters(adapted.trainable, options)
    if setting.method == "full" and setting.width != 4:
        recorder.name(masters.masters, "masters")
    layers = base_of(adapted.model).get_decoder().layers
    handles = watch_layers(layers, recorder)
    for step in range(count):
        with recorder.phase(f"{step}.else", flat=True):
            losses = []
            for part in range(2 if setting.load.several else 1):
                losses.append(_pass(f"{step}.{part}", adapted, micro_batch, recorder))
                recorder.name((master.grad for master in masters.masters), "gradients")
            with recorder.phase(f"{step}.clip", flat=True):
                norm = masters.clip(setting.options.max_grad_norm)
                torch.stack([*losses, norm.detach().float()])
            with recorder.phase(f"{step}.step", flat=True):
                masters.step(setting.options.learning_rate)
            recorder.name(_moments(masters), "optimizer")
            del norm, losses
            gc.collect()  # bitsandbytes' graphs are cycles: they end with their step, not never
    for handle in handles:
        handle.remove()


def _pass(name: str, adapted: Adapted, answers: Answers, recorder: Recorder) -> Tensor:
    """Forward and backward of one micro-batch; its loss."""
    batch = answers.batch
    with recorder.phase(f"{name}.forward"), adapted.arithmetic():
        hidden_ND = answer_hidden(adapted.model, answers)
    with recorder.phase(f"{name}.forward.head"), adapted.arithmetic():
        loss = head_of(adapted.model).loss(hidden_ND, batch) / len(batch.trained_N)
        del hidden_ND
    with recorder.phase(f"{name}.backward"):
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach().float()


def _moments(masters: Masters) -> Sequence[Tensor]:
    return [value for state in masters.adamw.state.values() for value in state.values()]
