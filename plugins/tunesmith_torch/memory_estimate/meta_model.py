"""Models without numbers: of the right class, with the right sizes, holding nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from tunesmith.errors import UsageError
from tunesmith_torch.kernels import rms_norm
from tunesmith_torch.runtime import bitsandbytes

_OFF_LIMITS = ("auto_map", "quantization_config")


def blank_config(config: Mapping[str, Any], layers: int | None = None) -> PretrainedConfig:
    """A transformers config, with another number of layers if wanted.

    Raises:
        UsageError: transformers does not know the kind of model.
    """
    kind = str(config.get("model_type", "llama"))
    if kind not in CONFIG_MAPPING:
        raise UsageError(f"model: transformers knows no `{kind}`, so its step cannot be traced")
    known = {k: deepcopy(v) for k, v in config.items() if k not in (*_OFF_LIMITS, "model_type")}
    made: PretrainedConfig = CONFIG_MAPPING[kind](**known)
    text = made.get_text_config()
    if layers is not None:
        text.num_hidden_layers = layers
        kinds = getattr(text, "layer_types", None)
        if kinds is not None:
            text.layer_types = [*kinds, *kinds[:1] * layers][:layers]
    return made


def blank_model(config: PretrainedConfig, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """The model on the device "meta"."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    return model


def _linear(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Plain linear layers but the head, each with its parent and its name there."""
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer is not head:
                yield parent, name, layer


def quantize_to_8_bits(model: PreTrainedModel, *, gpu: bool) -> None:
    """Make its linear layers 8-bit ones as bitsandbytes stores them, all but the head.

    ``gpu``: with the product that a GPU takes in training; on a CPU it is another.

    Raises:
        EnvironmentProblem: bitsandbytes is not installed.
    """
    package = bitsandbytes.package()
    kind = package.nn.Linear8bitLt
    if gpu:
        product = import_module("bitsandbytes.autograd._functions").MatMul8bitLt.apply

        class OnGpu(kind):  # type: ignore[misc, valid-type]
            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = product(x, self.weight, None, self.bias, self.state)
                return out

        kind = OnGpu
    for parent, name, layer in _linear(model):
        setattr(parent, name, _eight_bits(kind, layer))
    model.is_loaded_in_8bit = True


def _eight_bits(kind: Any, layer: nn.Linear) -> nn.Module:
    with torch.device("meta"):
        biased = layer.bias is not None
        sizes = layer.in_features, layer.out_features
        made = kind(*sizes, bias=biased, has_fp16_weights=False, threshold=0.0)
        if biased:
            made.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return made  # type: ignore[no-any-return]


def quantize(model: PreTrainedModel, *, double: bool, dtype: torch.dtype) -> None:
    """Make its linear layers 4-bit ones as bitsandbytes stores them, all but the head.

    Raises:
        EnvironmentProblem: bitsandbytes is not installed.
    """
    package = bitsandbytes.package()
    for parent, name, layer in _linear(model):
        if layer.in_features % 64 == 0:
            setattr(parent, name, _four_bits(package, layer, double, dtype))
    model.is_loaded_in_4bit = True


def _four_bits(package: Any, layer: nn.Linear, double: bool, dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        made = package.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=dtype,
            compress_statistics=double,
            quant_type="nf4",
        )
        if layer.bias is not None:
            made.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    made.support_avx512bf16_for_cpu = False
    made.compute_type_is_set = True
    return made  # type: ignore[no-any-return]


def use_lean_norms(model: nn.Module) -> None:
    """Put lean norms where :func:`tunesmith_torch.kernels.rms_norm.use` would; it asks a norm with numbers."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            eps = getattr(child, "variance_epsilon", getattr(child, "eps", None))
            if type(child).__name__.endswith("RMSNorm") and isinstance(eps, float):
                try:
                    sample = nn.ModuleList([type(child)(64, eps=eps)])
                except TypeError:  # made of something else
                    continue
                if rms_norm.use(sample):
                    setattr(parent, name, rms_norm.LeanNorm(child.get_parameter("weight"), eps))


def materialise(model: nn.Module) -> None:
    """Move all parameters and buffers from "meta" to tensors of the mode that is on."""
    memo: dict[int, Tensor] = {}
    module: Any
    for module in model.modules():
        four_bits = isinstance(module, nn.Linear) and hasattr(module, "compute_type_is_set")
        double = four_bits and bool(module.weight.compress_statistics)
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None and tensor.device.type == "meta":
                    if id(tensor) not in memo:
                        memo[id(tensor)] = _copy(tensor)
                    store[name] = memo[id(tensor)]
        if four_bits:
            _pack(module, double=double)
        elif isinstance(module, nn.Linear) and hasattr(module, "init_8bit_state"):
            _pack_8_bits(module)


def _copy(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    if not isinstance(tensor, nn.Parameter):
        return empty
    return nn.Parameter(empty, requires_grad=tensor.requires_grad)


def _pack(layer: Any, *, double: bool) -> None:
    """Give a 4-bit layer its packed weight and scales."""
    package = bitsandbytes.package()
    rows, columns = layer.out_features, layer.in_features
    blocks = rows * columns // 64
    state: Any = package.functional.QuantState
    code = torch.empty(16)
    shape = torch.Size((rows, columns))
    common = {"shape": shape, "code": code, "blocksize": 64, "quant_type": "nf4"}
    if double:
        second = state(absmax=torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256)
        second.dtype = torch.float32
        scales = torch.empty(blocks, dtype=torch.uint8)
        offset, dtype = torch.empty(()), layer.compute_dtype
        quant = state(absmax=scales, dtype=dtype, offset=offset, state2=second, **common)
    else:
        quant = state(absmax=torch.empty(blocks), dtype=layer.compute_dtype, **common)
    packed = torch.empty((rows * columns // 2, 1), dtype=torch.uint8)
    # bitsandbytes' own kind of parameter cannot be made of a tensor without numbers.
    weight: Any = nn.Parameter(packed, requires_grad=False)
    weight.quant_state = quant
    layer.weight = weight


def _pack_8_bits(layer: Any) -> None:
    """Give an 8-bit layer its weight and a scale for each row, as they are after a first pass."""
    packed = torch.empty((layer.out_features, layer.in_features), dtype=torch.int8)
    # As above, bitsandbytes' own kind of parameter needs numbers.
    weight: Any = nn.Parameter(packed, requires_grad=False)
    weight.CB = weight.SCB = None
    layer.weight, layer.state.CB = weight, weight.data
    layer.state.SCB = torch.empty(layer.out_features)


def stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a model holds, scales of quantised layers included, with its name."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            for part in (state, state.state2):
                if part is not None:
                    yield f"{name}.absmax", part.absmax
                    yield f"{name}.code", part.code
            if state.offset is not None:
                yield f"{name}.offset", state.offset
        scales = getattr(getattr(module, "state", None), "SCB", None)
        if isinstance(scales, Tensor):
            yield f"{name}.SCB", scales
