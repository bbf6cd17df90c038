"""Build models with the real class and sizes, but without memory for their weights."""

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
from tunesmith_torch.untrusted.foreign_code import ATTENTION_KEYS

__all__ = ["find_quantizable_layers", "make_meta_config", "make_meta_model"]

_IGNORED_CONFIG_KEYS = ("auto_map", "quantization_config", *ATTENTION_KEYS)


def make_meta_config(config: Mapping[str, Any], layers: int | None = None) -> PretrainedConfig:
    """Return a model's transformers config, with this number of ``layers`` unless it is None.

    Raises:
        UsageError: transformers does not support the model type.
    """
    model_type = str(config.get("model_type", "llama"))
    if model_type not in CONFIG_MAPPING:
        raise UsageError(
            f"model: transformers does not support `{model_type}`, so a step cannot be traced"
        )
    known = {
        k: deepcopy(v) for k, v in config.items() if k not in (*_IGNORED_CONFIG_KEYS, "model_type")
    }
    meta_config: PretrainedConfig = CONFIG_MAPPING[model_type](**known)
    text = meta_config.get_text_config()
    if layers is not None:
        text.num_hidden_layers = layers
        layer_types = getattr(text, "layer_types", None)
        if layer_types is not None:
            text.layer_types = [*layer_types, *layer_types[:1] * layers][:layers]
    return meta_config


def make_meta_model(
    config: PretrainedConfig, dtype: torch.dtype, attention: str
) -> PreTrainedModel:
    """Build the config's model on the meta device, without memory for its weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    return model


def find_quantizable_layers(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield the parent, name and module of each plain linear layer, except the output head."""
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer is not head:
                yield parent, name, layer


def quantize_8bit(model: PreTrainedModel, *, gpu: bool) -> None:
    """Replace the linear layers, except the head, with 8-bit bitsandbytes layers.

    With ``gpu``, they compute the product that a GPU uses in training, which a CPU does not.

    Raises:
        EnvironmentProblem: bitsandbytes is not installed.
    """
    package = bitsandbytes.import_bitsandbytes()
    layer_class = package.nn.Linear8bitLt
    if gpu:
        product = import_module("bitsandbytes.autograd._functions").MatMul8bitLt.apply

        class GpuLinear8bit(layer_class):  # type: ignore[misc, valid-type]
            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = product(x, self.weight, None, self.bias, self.state)
                return out

        layer_class = GpuLinear8bit
    for parent, name, layer in find_quantizable_layers(model):
        setattr(parent, name, _linear_8bit(layer_class, layer))
    model.is_loaded_in_8bit = True


def _linear_8bit(layer_class: Any, layer: nn.Linear) -> nn.Module:
    with torch.device("meta"):
        has_bias = layer.bias is not None
        sizes = layer.in_features, layer.out_features
        quantized = layer_class(*sizes, bias=has_bias, has_fp16_weights=False, threshold=0.0)
        if has_bias:
            quantized.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return quantized  # type: ignore[no-any-return]


def quantize_4bit(model: PreTrainedModel, *, double: bool, dtype: torch.dtype) -> None:
    """Replace the linear layers, except the head, with 4-bit bitsandbytes layers.

    Layers whose input width is not a multiple of 64 are kept. With ``double``, the scales are
    quantized too. ``dtype`` is the dtype of the products.

    Raises:
        EnvironmentProblem: bitsandbytes is not installed.
    """
    package = bitsandbytes.import_bitsandbytes()
    for parent, name, layer in find_quantizable_layers(model):
        if layer.in_features % 64 == 0:
            setattr(parent, name, _linear_4bit(package, layer, double, dtype))
    model.is_loaded_in_4bit = True


def _linear_4bit(package: Any, layer: nn.Linear, double: bool, dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        quantized = package.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=dtype,
            compress_statistics=double,
            quant_type="nf4",
        )
        if layer.bias is not None:
            quantized.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    # The first forward pass would set both for this machine's CPU.
    quantized.support_avx512bf16_for_cpu = False
    quantized.compute_type_is_set = True
    return quantized  # type: ignore[no-any-return]


def use_fused_norms(model: nn.Module) -> None:
    """Replace the norms that :func:`tunesmith_torch.kernels.rms_norm.fuse_rms_norms` would replace.

    That function compares results, which needs data. So it is tried on a small real norm of the
    same class.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            eps = getattr(child, "variance_epsilon", getattr(child, "eps", None))
            if type(child).__name__.endswith("RMSNorm") and isinstance(eps, float):
                try:
                    sample = nn.ModuleList([type(child)(64, eps=eps)])
                except TypeError:  # takes other arguments, so it is not a plain RMSNorm
                    continue
                if rms_norm.fuse_rms_norms(sample):
                    setattr(parent, name, rms_norm.FusedRMSNorm(child.get_parameter("weight"), eps))


def materialize(model: nn.Module) -> None:
    """Replace parameters and buffers on the meta device with empty tensors.

    In a fake-tensor mode these are fake tensors. Tied parameters stay tied.
    """
    memo: dict[int, Tensor] = {}
    module: Any
    for module in model.modules():
        four_bits = isinstance(module, nn.Linear) and hasattr(module, "compute_type_is_set")
        double = four_bits and bool(module.weight.compress_statistics)
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None and tensor.device.type == "meta":
                    if id(tensor) not in memo:
                        memo[id(tensor)] = _empty_like(tensor)
                    store[name] = memo[id(tensor)]
        if four_bits:
            _pack_4bit(module, double=double)
        elif isinstance(module, nn.Linear) and hasattr(module, "init_8bit_state"):
            _pack_8bit(module)


def _empty_like(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    if not isinstance(tensor, nn.Parameter):
        return empty
    return nn.Parameter(empty, requires_grad=tensor.requires_grad)


def _pack_4bit(layer: Any, *, double: bool) -> None:
    """Set a 4-bit layer's packed weight and scales."""
    package = bitsandbytes.import_bitsandbytes()
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
    # bitsandbytes' parameter class cannot be built from a tensor without data.
    weight: Any = nn.Parameter(packed, requires_grad=False)
    weight.quant_state = quant
    layer.weight = weight


def _pack_8bit(layer: Any) -> None:
    """Set an 8-bit layer's weight and row scales, as they are after the first forward pass."""
    packed = torch.empty((layer.out_features, layer.in_features), dtype=torch.int8)
    # As above, bitsandbytes' parameter class needs data.
    weight: Any = nn.Parameter(packed, requires_grad=False)
    weight.CB = weight.SCB = None
    layer.weight, layer.state.CB = weight, weight.data
    layer.state.SCB = torch.empty(layer.out_features)


def list_stored_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of each parameter, buffer and quantization scale of a model."""
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
