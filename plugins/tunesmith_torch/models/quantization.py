"""Load base models with frozen linear layers in 4 or 8 bits per weight (bitsandbytes).

Shapes: O outputs, I inputs.

With 4 bits (NF4), blocks of 64 weights share a scale. Double quantization also stores the scales in
8 bits, which saves 0.37 bits per weight (Dettmers et al. 2023, QLoRA, section 3). With 8 bits, the
format is LLM.int8 (Dettmers et al. 2022). The head and the embeddings are not quantized.

The weights are read from the safetensors files one tensor at a time. Each tensor is quantized and
released before the next one is read, so the full-precision model is never in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import IntegrityError
from tunesmith_torch.models.loading import LoadedBase, build_on_meta, load_base
from tunesmith_torch.models.model_folder import check_model_folder
from tunesmith_torch.options.adaptation import QuantizationOptions
from tunesmith_torch.runtime import bitsandbytes

__all__ = ["Quantization"]

BLOCK_SIZE = 64
"""Number of weights in a row that share a scale, with 4 bits."""


@dataclass(frozen=True)
class Quantization:
    """Settings for quantizing the weights of linear layers."""

    bits: Literal[4, 8] = 4
    double_quantization: bool = True
    """Also quantize the scales of 4-bit blocks."""

    @classmethod
    def from_options(cls, options: QuantizationOptions | None) -> Quantization | None:
        """Return the quantization that the options describe, or None if there are no options."""
        return None if options is None else cls(options.bits, options.double_quantization)


def load_quantized(
    folder: Path,
    quantization: Quantization,
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: str = "sdpa",
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LoadedBase:
    """Load a model as :func:`~tunesmith_torch.models.loading.load_base` does; quantize its weights.

    ``dtype`` is the compute dtype, and the dtype of all weights that are not quantized.

    Raises:
        EnvironmentProblem: bitsandbytes is missing, or does not work on this device.
        IntegrityError: see ``load_base``.
    """
    bitsandbytes.import_checked_bitsandbytes(device)
    check_model_folder(folder)
    meta_model = build_on_meta(folder)
    _check_files(folder, meta_model)
    is_4bit = quantization.bits == 4
    config = BitsAndBytesConfig(
        load_in_4bit=is_4bit,
        load_in_8bit=not is_4bit,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_layers_to_keep(meta_model) if is_4bit else None,
        llm_int8_threshold=0.0,  # no separate outlier columns: merging needs the same weights
    )
    base = load_base(
        folder,
        device=device,
        dtype=dtype,
        attention=attention,
        quantization=config,
        tokenizer=tokenizer,
    )
    _make_forward_deterministic(base.model)
    return base


def quantized_layers(model: nn.Module) -> dict[str, Any]:
    """Return the quantized layers by name."""
    return {n: m for n, m in model.named_modules() if _is_quantized(m)}


def dequantize(layer: Any, dtype: torch.dtype) -> Tensor:
    """Return the matrix that a quantized layer uses in its product, as a plain tensor, [O, I]."""
    weight, functional = (
        layer.weight,
        bitsandbytes.import_checked_bitsandbytes(layer.weight.device).functional,
    )
    if weight.data.dtype == torch.int8:
        scales_O = weight.SCB if weight.SCB is not None else layer.state.SCB
        rows_OI: Tensor = weight.data.float() * (scales_O.float()[:, None] / 127)
        return rows_OI.to(dtype)
    matrix_OI: Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
    return matrix_OI.to(dtype)


def list_quantized(model: PreTrainedModel, quantization: Quantization) -> frozenset[str]:
    """Return the names of the layers that :func:`load_quantized` would quantize."""
    head = model.get_output_embeddings()
    kept = (_layers_to_keep(model) if quantization.bits == 4 else None) or []
    return frozenset(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and name not in kept
    )


def quantize_and_dequantize(
    weight_OI: Tensor, quantization: Quantization, device: torch.device
) -> Tensor:
    """Return the float32 matrix that a layer with this quantized weight uses in its product."""
    functional = bitsandbytes.import_checked_bitsandbytes(device).functional
    on_device_OI = weight_OI.contiguous().to(device)
    if quantization.bits == 8:
        rows_OI, scales_O, _ = functional.int8_vectorwise_quant(on_device_OI.half())
        scaled_OI: Tensor = rows_OI.float() * (scales_O.float()[:, None] / 127)
        return scaled_OI.cpu()
    packed, state = functional.quantize_4bit(
        on_device_OI,
        blocksize=BLOCK_SIZE,
        compress_statistics=quantization.double_quantization,
        quant_type="nf4",
    )
    state.dtype = torch.float32
    matrix_OI: Tensor = functional.dequantize_4bit(packed, state)
    return matrix_OI.cpu()


def compute_in_float32(model: PreTrainedModel) -> None:
    """Make a quantized model compute in float32, without changing its weights."""
    for layer in quantized_layers(model).values():
        if layer.weight.dtype == torch.uint8:
            layer.compute_dtype = layer.weight.quant_state.dtype = torch.float32
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()


def weight_bytes(model: nn.Module) -> int:
    """Return the size of the quantized matrices in bytes, including scales and tables."""
    stored = (layer.state_dict() for layer in quantized_layers(model).values())
    return sum(t.nbytes for state in stored for name, t in state.items() if name != "bias")


def _layers_to_keep(model: PreTrainedModel) -> list[str] | None:
    """Return the names of layers that must not be quantized, or None if that is only the head.

    If the length of a matrix's rows is not a multiple of the block size, bitsandbytes on a CPU
    reads it back with an error of a quarter of its norm. Such a layer is not quantized on any
    device, so results are the same everywhere.
    """
    head = model.get_output_embeddings()
    inputs = {
        name: module.in_features if isinstance(module, nn.Linear) else module.weight.shape[0]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    }
    heads = [name for name in inputs if model.get_submodule(name) is head]
    misaligned = [n for n, size in inputs.items() if n not in heads and size % BLOCK_SIZE]
    return [*misaligned, *heads] if misaligned else None


def _is_quantized(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.weight.dtype in (torch.uint8, torch.int8)


def _make_forward_deterministic(model: PreTrainedModel) -> None:
    """Make the forward pass the same in training and evaluation, and release the mapped files.

    With bfloat16 on a CPU, a 4-bit layer repacks itself in its first pass in eval mode. It rounds
    its scales to bfloat16, uses those from then on, and passes no gradient. An attribute of the
    layer switches this off.
    """
    for layer in quantized_layers(model).values():
        layer.support_avx512bf16_for_cpu = False
    if model.device.type == "cpu":  # a single tensor would keep its whole file mapped
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.clone()


def _check_files(folder: Path, model: PreTrainedModel) -> None:
    """Check shapes and finite values in the files, as they cannot be checked after quantization."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no dictionary
                    tensor = file.get_tensor(name)
                    if shapes.get(name, tensor.shape) != tensor.shape:
                        raise IntegrityError(
                            f"{folder}: {name} has the shape {list(tensor.shape)}, but config.json "
                            f"describes the shape {list(shapes[name])}",
                            hint="config.json and the weights belong to different models",
                        )
                    # In float64 the sum of finite weights does not overflow.
                    if not tensor.sum(dtype=torch.float64).isfinite():
                        raise IntegrityError(
                            f"{folder}: {name} has values that are not finite",
                            hint="download the model again, or use another model",
                        )
        except SafetensorError as error:
            raise IntegrityError(
                f"{path}: cannot be read: {error!s:.160}", hint="download the file again"
            ) from error
