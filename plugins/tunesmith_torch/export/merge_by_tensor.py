"""Merge an adapter into its base model tensor by tensor, with one shard in memory at a time.

The model is built without weights, and its adapters are loaded. Then each tensor of the base model
is read, merged by PEFT's own layer, written and released. So every kind of adapter whose layers can
merge is supported, such as DoRA and LoHa, and this module needs no formulas. The base weights are
those used in training: rounded to its precision and, for a quantized base model, dequantized.

The whole model is merged at once instead in two cases: the adapter changes more than the weights of
single layers (fully trained modules, stacked experts), or the tensor names in the checkpoint differ
from the model's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from tunesmith_torch.runtime import peft_import  # noqa: F401 - must precede peft

# isort: split
from peft import PeftConfig, PeftModel
from peft.tuners.lora import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import UsageError
from tunesmith_torch.models.adapter_config import can_load_on_meta
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.models.legacy_config_keys import write_legacy_config_keys
from tunesmith_torch.models.loading import LoadedBase, build_on_meta, load_tokenizer
from tunesmith_torch.models.merging import MergeOptions, save_merged
from tunesmith_torch.models.model_folder import find_weight_files
from tunesmith_torch.models.quantization import list_quantized, quantize_and_dequantize

INDEX = "model.safetensors.index.json"
_WEIGHT = ".weight"
_ROWS = 4096
"""Number of matrix rows that are converted at a time."""


def write_merged(
    base: Path, adapter: Path, out: Path, options: MergeOptions, dtype: torch.dtype
) -> None:
    """Write the config and weights of the merged model to ``out``, with weights in ``dtype``.

    Raises:
        UsageError: this kind of adapter cannot be merged.
    """
    config = PeftConfig.from_pretrained(str(adapter))
    if config.is_prompt_learning:
        raise UsageError(
            f"{adapter}: {config.peft_type.value} adds tokens to prompts instead of changing "
            "weights, so it cannot be merged",
            hint="serve the base model together with the adapter, using peft",
        )
    model = attach_adapters_on_meta(base, adapter, config, options)
    if model is None:
        save_merged(base, adapter, out, options, dtype)
        return
    _write_shards(model, base, out, options, dtype)
    inner = model.get_base_model()
    inner.config.dtype, inner.config.architectures = dtype, [type(inner).__name__]
    inner.config.save_pretrained(out)
    write_legacy_config_keys(out)


def attach_adapters_on_meta(
    base: Path, adapter: Path, config: PeftConfig, options: MergeOptions
) -> PeftModel | None:
    """Return the model with adapters but without weights; None if it must be merged whole."""
    if not can_load_on_meta(config) or getattr(config, "bias", "none") != "none":
        return None
    empty = _without_memory(build_on_meta(base))
    loaded = LoadedBase(empty, load_tokenizer(base), empty.config, base)
    model = attach_adapter(loaded, adapter, fused_kernels=False)
    names = {name for file in find_weight_files(base) for name in _tensor_names(file)}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, (ParamWrapper, AuxiliaryTrainingWrapper)):
            return None
        if isinstance(module, Conv1D) and options.quantization is not None:
            return None  # its weights are stored transposed and quantized
        if isinstance(module, BaseTunerLayer) and name + _WEIGHT not in names:
            return None
    return model


def _without_memory(model: PreTrainedModel) -> PreTrainedModel:
    """Replace meta-device weights with single numbers expanded to matrices.

    PEFT moves adapters to their layer's device; on the meta device they would be lost.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            number = torch.zeros(1).expand(parameter.shape)
            setattr(module, name, nn.Parameter(number, requires_grad=False))
    return model


def _write_shards(
    model: PeftModel, base: Path, out: Path, options: MergeOptions, dtype: torch.dtype
) -> None:
    """Write the merged tensors in files no larger than the largest file of the base model."""
    quantized = frozenset[str]()
    if options.quantization is not None:
        quantized = list_quantized(build_on_meta(base), options.quantization)
    shards: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    files = find_weight_files(base)
    limit = max(file.stat().st_size for file in files)
    total = 0

    def flush() -> None:
        path = out / f"model-{len(shards) + 1:05d}.safetensors"
        save_file(shard, path, metadata={"format": "pt"})
        shards.append([*shard])
        shard.clear()

    for name, stored in _read_tensors(files):
        tensor = _merge_tensor(model, name, stored, quantized, options, dtype)
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > limit:
            flush()
        shard[name] = tensor
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        (out / "model-00001.safetensors").rename(out / "model.safetensors")
        return
    weight_map = {
        name: f"model-{number:05d}.safetensors"
        for number, names in enumerate(shards, 1)
        for name in names
    }
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def _merge_tensor(
    model: PeftModel,
    name: str,
    stored: Tensor,
    quantized: frozenset[str],
    options: MergeOptions,
    dtype: torch.dtype,
) -> Tensor:
    """Return a base-model tensor as training used it, with its adapter added, in ``dtype``."""
    if not stored.is_floating_point():
        return stored.to(dtype)
    module_name = name.removesuffix(_WEIGHT)
    layer = _find_module(model.get_base_model(), module_name)
    quantization = options.quantization if module_name in quantized else None
    if quantization is None and not isinstance(layer, BaseTunerLayer):
        return _convert(stored, options.dtype, dtype)
    used = stored.to(options.dtype)
    if quantization is not None:
        used = quantize_and_dequantize(used, quantization, options.device)
    used = used.float()
    if not isinstance(layer, BaseTunerLayer):
        return used.to(dtype).contiguous()
    linear = layer.get_base_layer()
    empty = linear.weight
    linear.weight = nn.Parameter(used.clone(), requires_grad=False)
    layer.merge(safe_merge=True)
    merged: Tensor = linear.weight.data
    linear.weight = empty
    return merged.to(dtype).contiguous()


def _convert(stored: Tensor, used: torch.dtype, dtype: torch.dtype) -> Tensor:
    """Return a tensor rounded to ``used`` and converted to ``dtype``, some rows at a time.

    Converting row by row saves memory: with a large vocabulary, the embeddings alone take a quarter
    of the memory that merging may use.
    """
    if stored.dim() == 0:
        return stored.to(used).to(dtype)
    converted = torch.empty(stored.shape, dtype=dtype)
    for start in range(0, len(stored), _ROWS):
        rows = slice(start, start + _ROWS)
        converted[rows] = stored[rows].to(used)
    return converted


def _find_module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                yield name, tensors.get_tensor(name)


def _tensor_names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())
