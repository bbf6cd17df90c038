"""Base models whose linear layers are stored in 4 or 8 bits a weight, frozen.

Shapes: O outputs, I inputs.

4 bits: NF4, blocks of 64 weights with a common scale; double quantisation stores the scales
in 8 bits too, 0.37 bits a weight less (Dettmers et al. 2023, QLoRA, section 3). 8 bits: LLM.int8
(Dettmers et al. 2022). The head and the embeddings keep their format.

The weights come from the safetensors files tensor by tensor: each is quantised and freed before the
next is read, so that the whole model is never in memory at its full width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tunesmith.errors import IntegrityError
from tunesmith_torch.models.loading import Base, load_base, load_config
from tunesmith_torch.models.model_folder import check_folder
from tunesmith_torch.options.training import QloraOptions
from tunesmith_torch.runtime import bitsandbytes

BLOCK = 64
"""Weights of a row that share a scale, in 4 bits."""


@dataclass(frozen=True)
class Quantization:
    """How the weights of linear layers are stored."""

    bits: Literal[4, 8] = 4
    double: bool = True
    """Quantise the scales of 4-bit blocks, too."""

    @classmethod
    def of(cls, options: QloraOptions) -> Quantization:
        """What the options ask for."""
        return cls(options.bits, options.double_quantization)


def load_quantized(
    folder: Path,
    quantization: Quantization,
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: str = "sdpa",
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Base:
    """Read a model folder as :func:`tunesmith_torch.models.loading.load_base` does, quantised on the way.

    ``dtype`` is the format of the arithmetic and of everything that is not quantised.

    Raises:
        EnvironmentProblem: bitsandbytes is missing, or does not work on this device.
        IntegrityError: as for ``load_base``.
    """
    bitsandbytes.require(device)
    check_folder(folder)
    outline = _outline(folder)
    _check_files(folder, outline)
    four = quantization.bits == 4
    config = BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_left_whole(outline) if four else None,
        llm_int8_threshold=0.0,  # no outlier columns kept apart: what is trained is what is merged
    )
    base = load_base(
        folder,
        device=device,
        dtype=dtype,
        attention=attention,
        quantization=config,
        tokenizer=tokenizer,
    )
    _settle(base.model)
    return base


def quantized_layers(model: nn.Module) -> dict[str, Any]:
    """The quantised layers by name."""
    return {n: m for n, m in model.named_modules() if _is_quantized(m)}


def dequantized(layer: Any, dtype: torch.dtype) -> Tensor:
    """What a quantised layer multiplies by, as an ordinary matrix, [O, I]."""
    weight, functional = layer.weight, bitsandbytes.require(layer.weight.device).functional
    if weight.data.dtype == torch.int8:
        scales_O = weight.SCB if weight.SCB is not None else layer.state.SCB
        rows_OI: Tensor = weight.data.float() * (scales_O.float()[:, None] / 127)
        return rows_OI.to(dtype)
    matrix_OI: Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
    return matrix_OI.to(dtype)


def compute_in_float32(model: PreTrainedModel) -> None:
    """Have a quantised model compute in float32, with the very weights that it has."""
    for layer in quantized_layers(model).values():
        if layer.weight.dtype == torch.uint8:
            layer.compute_dtype = layer.weight.quant_state.dtype = torch.float32
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()


def weight_bytes(model: nn.Module) -> int:
    """Bytes that the quantised matrices take, scales and tables included."""
    stored = (layer.state_dict() for layer in quantized_layers(model).values())
    return sum(t.nbytes for state in stored for name, t in state.items() if name != "bias")


def _outline(folder: Path) -> PreTrainedModel:
    """The model without its numbers."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            load_config(folder), trust_remote_code=False
        )
    return model


def _left_whole(model: PreTrainedModel) -> list[str] | None:
    """Names of layers that keep their format, the head among them; None where that is all.

    On CPUs bitsandbytes reads a matrix back wrongly, by a quarter of its norm, if a row is not made
    of whole blocks. Such a layer is not quantised, on no device, so that a run is the same on all.
    """
    head = model.get_output_embeddings()
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    odd = [n for n, m in linear.items() if m is not head and m.in_features % BLOCK]
    return [*odd, *(n for n, m in linear.items() if m is head)] if odd else None


def _is_quantized(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.weight.dtype in (torch.uint8, torch.int8)


def _settle(model: PreTrainedModel) -> None:
    """Make every forward pass the same, in training and in evaluation, and let go of the files.

    On CPUs with bfloat16 arithmetic, a 4-bit layer repacks itself at its first pass in eval mode:
    it rounds its scales to bfloat16, computes in that from then on, and passes no gradient on. So
    that is switched off, by the layer's own attribute.
    """
    for layer in quantized_layers(model).values():
        layer.support_avx512bf16_for_cpu = False
    if model.device.type == "cpu":  # as long as one tensor lies in a mapped file, all of it stays
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.clone()


def _check_files(folder: Path, model: PreTrainedModel) -> None:
    """Check what no longer shows once it is quantised: shapes, and values that are not finite."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no dictionary
                    tensor = file.get_tensor(name)
                    if shapes.get(name, tensor.shape) != tensor.shape:
                        raise IntegrityError(
                            f"{folder}: {name} is of another shape than the config says, "
                            f"got {list(tensor.shape)} for {list(shapes[name])}"
                        )
                    # In float64 a sum of finite numbers is finite.
                    if not tensor.sum(dtype=torch.float64).isfinite():
                        raise IntegrityError(f"{folder}: {name} holds values that are not finite")
        except SafetensorError as error:
            raise IntegrityError(f"{path}: cannot be read, {error!s:.160}") from error
