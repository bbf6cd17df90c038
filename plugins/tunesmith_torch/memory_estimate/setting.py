"""What is to be estimated: a model's shape, a way to train it, a device, and the workload."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tunesmith.contracts import EstimateRequest
from tunesmith_torch.memory_estimate.model_shape import Shape
from tunesmith_torch.memory_estimate.workload import ALONE, Grouping, Workload, guess
from tunesmith_torch.options.training import FitOptions, LoraOptions, QloraOptions

Method = Literal["full", "lora", "qlora"]

FP32_MOMENTS = 8.0
_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")


@dataclass(frozen=True)
class Setting:
    """One question to the planner."""

    config: dict[str, Any]
    shape: Shape
    method: Method
    options: FitOptions
    device: Literal["cuda", "cpu"]
    load: Workload
    seed: int
    models: int
    """That an evaluation holds at once."""

    @classmethod
    def of(
        cls,
        method: Method,
        options: FitOptions,
        request: EstimateRequest,
        grouping: Grouping = ALONE,
    ) -> Setting:
        """What an estimate of these options has to answer."""
        shape = Shape.of(request.config)
        load = guess(options, request, shape.context, grouping)
        config = dict(request.config)
        facts = (request.device, load, request.seed, request.models)
        return cls(config, shape, method, options, *facts)

    @property
    def width(self) -> int:
        """Bytes of a number of the arithmetic."""
        wanted = self.options.precision
        if wanted != "auto":
            return 2 if wanted == "bf16" else 4
        return 2 if self.device == "cuda" or _cpu_has_bf16() else 4

    @property
    def stored(self) -> int:
        """Bytes of a number in the model's files."""
        dtype = str(self.config.get("dtype") or self.config.get("torch_dtype") or "bfloat16")
        return 4 if "32" in dtype else 2

    @property
    def bits(self) -> float:
        """Bits of a weight of the base's linear layers while training, scales included.

        Blocks of 64 share a scale of 32 bits, or one of 8 bits whose own blocks of 256 share 32
        (Dettmers et al. 2023, QLoRA, section 3).
        """
        options = self.options
        if self.method != "qlora" or not isinstance(options, QloraOptions):
            return 8.0 * self.width
        if options.bits == 8:
            return 8.0
        return 4 + (8 / 64 + 32 / (64 * 256) if options.double_quantization else 32 / 64)

    @property
    def moment_bytes(self) -> float:
        """Bytes of AdamW's two means of a weight: fp32, or 8 bits with a scale for each 256."""
        return FP32_MOMENTS if self.options.optimizer == "adamw" else 2 * (1 + 4 / 256)

    @property
    def base_bytes(self) -> int:
        """Bytes of the base's weights as they are held while training."""
        shape, linear = self.shape, self.shape.layers * self.shape.layer_weights
        return round(linear * self.bits / 8) + (shape.parameters - linear) * self.width

    @property
    def trainable(self) -> int:
        """Weights that move."""
        options = self.options
        if not isinstance(options, LoraOptions):
            return self.shape.parameters
        adapted = self.shape.adapted(options.target_modules)
        layer = sum(options.rank * (m.outputs + m.inputs) * m.copies for m in adapted)
        whole = sum(self.shape.table for name in options.modules_to_save if name in _TABLES)
        return self.shape.layers * layer + whole


_TABLES = ("lm_head", "embed_tokens")


@cache
def _cpu_has_bf16() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(flag in text.partition("\n\n")[0].split() for flag in _BF16)
