"""Run the training step on fake tensors, which have a shape but no data; record its allocations.

The model has its real class and is adapted by the real code, with the real head, loss,
checkpointing and optimizer::

    config.json -> meta model -> adapters, norms, ... -> fake tensors -> one step, recorded
    (5 layers)     no storage    the code of training    no data             |
                                                                             v
    all layers <- stretch_to_layers <- scale_label <- repeat_step <- timeline of 5 layers
                                       8-bit moments  AdamW's moments exist

AdamW allocates its moments at the end of the first step, so the peak is usually in the second step.
One step is run, and its events are repeated. If the layers are not alike, all layers are traced.
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
from tunesmith_torch.losses.selected_positions import get_lm_head, unwrap_peft
from tunesmith_torch.memory_estimate import gpu_substitutes, meta_model
from tunesmith_torch.memory_estimate.allocation_recorder import AllocationRecorder, track_layers
from tunesmith_torch.memory_estimate.setting import FP32_MOMENT_BYTES, EstimateSetting
from tunesmith_torch.memory_estimate.timeline import TRACED_LAYERS, NonUniformLayersError, Timeline
from tunesmith_torch.memory_estimate.workload import Workload
from tunesmith_torch.models.adapters import AdaptedModel, adapt_full, adapt_lora
from tunesmith_torch.models.loading import LoadedBase, enable_gradient_checkpointing
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.options.training import OptimizerOptions
from tunesmith_torch.prefix.common_prefix import collate_with_prefix
from tunesmith_torch.prefix.completion_groups import (
    CompletionBatch,
    CompletionGroup,
    GroupLayout,
    collate_final_tokens,
    completion_hidden,
)
from tunesmith_torch.runtime.device import Precision


@dataclass(frozen=True)
class StepTrace:
    """The allocations of two training steps, and the model's parameter counts."""

    timeline: Timeline
    parameters: int
    """Number of parameters, including adapters."""
    trainable_parameters: int
    """Number of trained parameters."""


def trace_step(setting: EstimateSetting) -> StepTrace:
    """Return the trace of two steps for all layers of the model."""
    return stretch_few_layers(setting, lambda layers: trace_layers(setting, layers))


def stretch_few_layers(setting: EstimateSetting, run: Callable[[int], StepTrace]) -> StepTrace:
    """Trace a few layers and stretch the timeline to all layers; trace all if they differ.

    ``run`` traces a model with the given number of layers.
    """
    layers = setting.shape.layers
    if layers > TRACED_LAYERS and not setting.varies_by_layer:
        try:
            few = run(TRACED_LAYERS)
            timeline = few.timeline.stretch_to_layers(layers)
        except NonUniformLayersError:
            return run(layers)
        shape = setting.shape
        added = (layers - TRACED_LAYERS) * (shape.layer_linear_weights + shape.layer_other_weights)
        frozen = few.parameters - few.trainable_parameters
        added_adapters = frozen and setting.trainable_parameters - few.trainable_parameters
        trainable = few.trainable_parameters + (added_adapters or added)
        return StepTrace(timeline, few.parameters + added, trainable)
    return run(layers)


def trace_layers(setting: EstimateSetting, layers: int, *, steps: int = 1) -> StepTrace:
    """Trace two steps of the model with this number of layers.

    ``steps`` is the number of steps that are run. With 1, the second step repeats the events of the
    first.
    """
    config = meta_model.make_meta_config(setting.config, layers)
    adapted = _adapted_meta_model(setting, config)
    model = cast(nn.Module, adapted.model)
    gpu = setting.device == "cuda"
    micro_batch = _largest_micro_batch(setting)
    recorder = AllocationRecorder(
        gpu_substitutes.GPU_WORKSPACES if gpu else gpu_substitutes.CPU_WORKSPACES
    )
    with fake_tensors(gpu=gpu, autocast=setting.method != "full"):
        meta_model.materialize(model)
        with recorder.recording():
            record_model_tensors(
                recorder, model, unwrap_peft(model), adapters=setting.method != "full"
            )
            run_steps(steps, setting, adapted, micro_batch, recorder)
    timeline = recorder.timeline.with_block_labels(recorder.labels)
    if steps == 1:
        timeline = timeline.repeat_step("0.", "1.")
    if setting.moment_bytes != FP32_MOMENT_BYTES:
        timeline = timeline.scale_label("optimizer", setting.moment_bytes / FP32_MOMENT_BYTES)
    return StepTrace(
        timeline,
        sum(p.numel() for p in model.parameters()),
        adapted.num_trainable_parameters,
    )


@contextmanager
def fake_tensors(*, gpu: bool, autocast: bool) -> Iterator[None]:
    """Make new tensors fake inside the block; restore the random state at its end.

    With ``gpu``, tensors claim to be on a GPU, whose autocast is on if ``autocast`` is True.
    """
    # Attention caches masks. Real masks must not be used inside, nor fake masks afterwards.
    block_attention.clear_mask_cache()
    with ExitStack() as stack:
        stack.callback(block_attention.clear_mask_cache)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        if gpu:
            stack.enter_context(gpu_substitutes.simulated_gpu(autocast=autocast))
        yield


def record_model_tensors(
    recorder: AllocationRecorder, model: nn.Module, base: Any, *, adapters: bool
) -> None:
    """Record the tensors that exist before the first step.

    ``base`` is the model without its PEFT wrapper. With ``adapters``, trained parameters are
    labeled as adapters.
    """
    decoder = base.get_decoder()
    layer_numbers = {
        id(tensor): number
        for number, layer in enumerate(decoder.layers)
        for _, tensor in meta_model.list_stored_tensors(layer)
    }
    with recorder.phase("weights", flat=True):
        for _, tensor in meta_model.list_stored_tensors(model):
            trained = isinstance(tensor, nn.Parameter) and tensor.requires_grad
            label = "adapter" if adapters and trained else "weights"
            recorder.record_existing(tensor, label, layer_numbers.get(id(tensor), -1))


def _adapted_meta_model(setting: EstimateSetting, config: PretrainedConfig) -> AdaptedModel:
    """Return the model on the meta device, adapted as for training."""
    dtype = torch.bfloat16 if setting.compute_bytes == 2 else torch.float32
    gpu, packed = setting.device == "cuda", setting.options.packing
    name = gpu_substitutes.register_attention(gpu=gpu, packed=packed)
    model = meta_model.make_meta_model(config, dtype, name)
    if setting.method == "qlora" and setting.base_weight_bits == 8:
        meta_model.quantize_8bit(model, gpu=gpu)
    elif setting.method == "qlora":
        meta_model.quantize_4bit(model, double=setting.base_weight_bits < 4.3, dtype=dtype)
    if setting.options.fused_kernels:
        meta_model.use_fused_norms(model)
    base = LoadedBase(model, cast(Any, None), config, Path())
    precision = Precision(dtype, "planned")
    with torch.random.fork_rng(devices=[]):
        if setting.options.adaptation.build is not None:
            adapted: AdaptedModel = setting.options.adaptation.build(base, precision)
        elif setting.adapter is not None:
            fused = setting.options.fused_kernels
            adapter = setting.adapter.model_copy(update={"init": "default"})  # reads no weights
            adapted = adapt_lora(base, precision, adapter, 0, fused_kernels=fused)
        else:
            adapted = adapt_full(base, precision)
    if setting.options.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    adapted.model.train()
    return adapted


def _largest_micro_batch(setting: EstimateSetting) -> CompletionBatch:
    """Return the workload's largest micro-batch, in real tensors because layouts read the data."""
    workload = setting.workload
    groups = [
        CompletionGroup([0] * prompt, tuple([0] * tokens for tokens in completions))
        for prompt, completions in workload.micro_batch
    ]
    if workload.common_prefix_tokens:
        return _collate_with_common_prefix(workload)
    layout = GroupLayout(setting.options.packing, workload.grouping.shares_prompt)
    indices = range(len(groups))
    if workload.grouping.scores_last_token:
        budget = sum(map(layout.count_tokens, groups)) * 2  # enough for one micro-batch
        (micro_batch,) = collate_final_tokens(layout, groups, indices, budget)
        return micro_batch
    return layout.collate(groups, indices)


def _collate_with_common_prefix(workload: Workload) -> CompletionBatch:
    """Return the largest micro-batch, with the common prefix of its rows stored once."""
    sizes = [workload.grouping.token_count(row) for row in workload.micro_batch]
    examples = [
        Example([0] * size, np.arange(size) >= row.prompt)
        for row, size in zip(workload.micro_batch, sizes, strict=True)
    ]
    batch, branches = collate_with_prefix(
        examples, range(len(examples)), workload.common_prefix_tokens
    )
    lengths_A = torch.tensor(
        [workload.grouping.loss_positions(row) for row in workload.micro_batch]
    )
    completion_N = torch.repeat_interleave(torch.arange(len(lengths_A)), lengths_A)
    return CompletionBatch(batch, completion_N, lengths_A, batch.rows, branches)


def run_steps(
    count: int,
    setting: EstimateSetting,
    adapted: AdaptedModel,
    micro_batch: CompletionBatch,
    recorder: AllocationRecorder,
) -> None:
    """Run ``count`` steps as the training loop does, each on the largest micro-batch."""
    with recorder.phase("masters", flat=True):
        # Kernels for 8-bit moments need data, so record fp32 moments and scale them afterwards.
        options = setting.options.model_copy(update={"optimizer": OptimizerOptions()})
        masters = MasterWeights(adapted.named_trainable_parameters, options)
    if setting.method == "full" and setting.compute_bytes != 4:
        recorder.label_blocks(masters.masters, "masters")
    layers = unwrap_peft(adapted.model).get_decoder().layers
    handles = track_layers(layers, recorder)
    for step in range(count):
        with recorder.phase(f"{step}.else", flat=True):
            losses = []
            for part in range(2 if setting.workload.accumulates_gradients else 1):
                losses.append(_forward_backward(f"{step}.{part}", adapted, micro_batch, recorder))
                recorder.label_blocks((master.grad for master in masters.masters), "gradients")
            with recorder.phase(f"{step}.clip", flat=True):
                norm = masters.clip_grad_norm(setting.options.optimizer.max_grad_norm)
                torch.stack([*losses, norm.detach().float()])
            with recorder.phase(f"{step}.step", flat=True):
                masters.step(setting.options.learning_rate)
            recorder.label_blocks(_optimizer_state_tensors(masters), "optimizer")
            del norm, losses
            # bitsandbytes' graphs contain reference cycles, and automatic collection is off here.
            gc.collect()
    for handle in handles:
        handle.remove()


def _forward_backward(
    name: str, adapted: AdaptedModel, micro_batch: CompletionBatch, recorder: AllocationRecorder
) -> Tensor:
    """Run the forward and backward pass of one micro-batch; return its loss."""
    batch = micro_batch.batch
    with recorder.phase(f"{name}.forward"), adapted.autocast():
        hidden_ND = completion_hidden(adapted.model, micro_batch)
    with recorder.phase(f"{name}.forward.head"), adapted.autocast():
        loss = get_lm_head(adapted.model).loss(hidden_ND, batch) / len(batch.trained_N)
        del hidden_ND
    with recorder.phase(f"{name}.backward"):
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach().float()


def _optimizer_state_tensors(masters: MasterWeights) -> Sequence[Tensor]:
    return [value for state in masters.optimizer.state.values() for value in state.values()]
