"""The input of an estimate: the model's sizes, the training options, the device, the rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from tunesmith.estimates import EstimateRequest
from tunesmith_torch.memory_estimate.model_shape import ModelShape
from tunesmith_torch.memory_estimate.workload import (
    SINGLE_COMPLETION,
    Grouping,
    Workload,
    guess_workload,
)
from tunesmith_torch.options.adaptation import AdapterOptions, Method
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime.machine import (
    find_bf16_flags,
    is_small_for_bf16,
    read_processor_flags,
)

__all__ = ["EstimateSetting"]

FP32_MOMENT_BYTES = 8.0
"""Bytes of AdamW's two fp32 moments per weight."""


@dataclass(frozen=True)
class EstimateSetting:
    """The model, options, device and rows, which determine the memory of a training run."""

    config: dict[str, Any]
    """The base model's ``config.json``."""
    shape: ModelShape
    options: TrainingOptions
    device: Literal["cuda", "cpu"]
    workload: Workload
    seed: int
    """The run's seed, which determines the order of the rows."""
    model_count: int
    """Number of models that an evaluation holds in memory at the same time."""
    processes: int = 1
    """Number of processes that train together; the estimate is for one of them."""
    notes: tuple[str, ...] = ()
    """Explanations of how ``auto`` options were resolved."""

    @classmethod
    def from_request(
        cls,
        options: TrainingOptions,
        request: EstimateRequest,
        grouping: Grouping = SINGLE_COMPLETION,
    ) -> EstimateSetting:
        """Build the setting of a request; estimate the workload from the rows' characters."""
        shape = ModelShape.from_config(request.config)
        return cls(
            config=dict(request.config),
            shape=shape,
            options=options,
            device=request.device,
            workload=guess_workload(options, request, shape.context_length, grouping),
            seed=request.seed,
            model_count=request.model_count,
            processes=request.processes,
        )

    @property
    def is_sharded(self) -> bool:
        """True if each process holds a part of the weights."""
        return self.processes > 1 and self.options.parallel == "sharded"

    @property
    def method(self) -> Method:
        """The method, such as ``lora``: which weights are trained, and if the base is quantized."""
        return self.options.adaptation.method

    @property
    def adapter(self) -> AdapterOptions | None:
        """The options of the adapter to train; None if all weights are trained."""
        return self.options.adaptation.adapter

    @cached_property  # reads the processor's flags
    def compute_bytes(self) -> int:
        """Bytes per number in the compute dtype."""
        precision = self.options.precision
        if precision != "auto":
            return 2 if precision == "bf16" else 4
        if self.device == "cuda":
            return 2
        if is_small_for_bf16(self.shape.hidden_size):
            return 4
        return 2 if find_bf16_flags(read_processor_flags()) else 4

    @property
    def storage_bytes(self) -> int:
        """Bytes per number in the model's files."""
        dtype = str(self.config.get("dtype") or self.config.get("torch_dtype") or "bfloat16")
        return 4 if "32" in dtype else 2

    @property
    def base_weight_bits(self) -> float:
        """Bits per weight of the base model's linear layers, including 4-bit quantization's scales.

        With 4-bit quantization, each block of 64 weights shares a 32-bit scale. Double quantization
        shrinks that scale to 8 bits, and each block of 256 scales shares another 32 bits (Dettmers
        et al. 2023, QLoRA, section 3).
        """
        quantization = self.options.adaptation.quantization
        if quantization is None:
            return 8.0 * self.compute_bytes
        if quantization.bits == 8:
            return 8.0
        return 4 + (8 / 64 + 32 / (64 * 256) if quantization.double_quantization else 32 / 64)

    @property
    def moment_bytes(self) -> float:
        """Bytes of AdamW's two moments per weight: fp32, or 8 bits with a scale per 256 values."""
        return FP32_MOMENT_BYTES if self.options.optimizer.name == "adamw" else 2 * (1 + 4 / 256)

    @property
    def base_bytes(self) -> int:
        """Bytes of the base model's weights as stored during training."""
        shape = self.shape
        linear = shape.layers * shape.layer_linear_weights
        return (
            round(linear * self.base_weight_bits / 8)
            + (shape.parameters - linear) * self.compute_bytes
        )

    @property
    def trainable_parameters(self) -> int:
        """Number of trained weights."""
        adapter = self.adapter
        if adapter is None:
            return self.shape.parameters
        targets = (
            *self.shape.targeted_layers(adapter.target_modules),
            *self.shape.targeted_experts(adapter.target_parameters),
        )
        adapters = sum(
            adapter.rank_of(f"model.layers.{layer}.{linear.path}")
            * (linear.out_features + linear.in_features)
            * linear.experts
            + (linear.out_features if adapter.use_dora else 0)
            for layer in adapter.layers or range(self.shape.layers)
            for linear in targets
        )
        tokens = len(adapter.trainable_tokens) * self.shape.hidden_size
        saved = sum(
            self.shape.embedding_weights
            for name in adapter.modules_to_save
            if name in _EMBEDDING_MODULES
        )
        return adapters + tokens + saved

    @property
    def varies_by_layer(self) -> bool:
        """True if the layers may have different adapters."""
        adapter = self.adapter
        return adapter is not None and bool(adapter.layers or adapter.rank_pattern)


_EMBEDDING_MODULES = ("lm_head", "embed_tokens")
