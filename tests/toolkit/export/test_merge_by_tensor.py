"""Merging tensor by tensor gives exactly what merging the whole model gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tunesmith.errors import UsageError
from tunesmith_torch.export.merge_by_tensor import INDEX, attach_adapters_on_meta, write_merged
from tunesmith_torch.models.adapters import adapt_lora
from tunesmith_torch.models.loading import load_base
from tunesmith_torch.models.merging import MergeOptions, save_merged
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model

CPU = torch.device("cpu")


def save_adapter(model: Path, folder: Path, **options: Any) -> Path:
    """Save an adapter with random values for a model."""
    base = load_base(model, device=CPU, dtype=torch.float32)
    adapted = adapt_lora(
        base, pick_precision(CPU, "fp32"), AdapterOptions(rank=4, alpha=8.0, **options), 0
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_trainable_parameters:
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(std=0.3, generator=generator)
    adapted.model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("quantization", [None, Quantization(4), Quantization(8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("llama", {"use_dora": True}),
        ("qwen3_moe", {"use_rslora": True}),
        ("gpt2", {}),
        ("llama", {"modules_to_save": ["lm_head"]}),
        ("llama", {"rank_pattern": {"q_proj": 2}, "layers": [1]}),
        ("llama", {"trainable_tokens": [5, 42]}),
    ],
)
def test_both_ways_of_merging_give_the_same_bits(
    tmp_path: Path,
    family: str,
    options: dict[str, Any],
    dtype: torch.dtype,
    quantization: Quantization | None,
) -> None:
    if quantization is not None and family != "llama":
        pytest.skip("one architecture is enough")
    model = save_tiny_model(tmp_path / "model", family)
    adapter = save_adapter(model, tmp_path / "adapter", **options)
    merge = MergeOptions(CPU, dtype, quantization)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    write_merged(model, adapter, tmp_path / "one", merge, torch.float32)
    save_merged(model, adapter, tmp_path / "other", merge, torch.float32)
    merged, expected = read_weights(tmp_path / "one"), read_weights(tmp_path / "other")
    assert set(merged) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(merged[name], tensor), name
    assert any(
        not torch.equal(tensor, merged[name])
        for name, tensor in read_weights(model).items()
        if name in merged
    )
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert config["architectures"] and config["torch_dtype"] == "float32"


def split_into_shards(model: Path, count: int) -> None:
    """Divide the weights of a folder over several files."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    weight_map = {}
    for number in range(count):
        part = dict(list(tensors.items())[number::count])
        save_file(part, model / f"part-{number}.safetensors", metadata={"format": "pt"})
        weight_map.update({name: f"part-{number}.safetensors" for name in part})
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_stay_as_small_as_those_of_the_base(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    adapter = save_adapter(model, tmp_path / "adapter")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    merge = MergeOptions(CPU, torch.float32)
    write_merged(model, adapter, whole, merge, torch.float32)
    split_into_shards(model, 3)
    largest = max(file.stat().st_size for file in model.glob("*.safetensors"))
    write_merged(model, adapter, parts, merge, torch.float32)
    header = 8192
    assert all(file.stat().st_size <= largest + header for file in parts.glob("*.safetensors"))
    assert len(list(parts.glob("*.safetensors"))) >= 2
    expected, found = read_weights(whole), read_weights(parts)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    load_base(parts_with_tokenizer(parts, model), device=CPU, dtype=torch.float32)


def parts_with_tokenizer(folder: Path, model: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    return folder


def test_weights_are_not_in_memory_when_adapters_are_read(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    adapter = save_adapter(model, tmp_path / "adapter")
    config = PeftConfig.from_pretrained(str(adapter))
    attached = attach_adapters_on_meta(model, adapter, config, MergeOptions(CPU, torch.float32))
    assert attached is not None
    sizes = {
        parameter.untyped_storage().nbytes()
        for name, parameter in attached.named_parameters()
        if "lora_" not in name
    }
    assert sizes == {4}
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        assert any(file.get_tensor(name).abs().max() > 0 for name in file.keys())  # noqa: SIM118


def test_prompt_tuning_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="instead of changing weights, so it cannot be merged"):
        write_merged(tmp_path, tmp_path, tmp_path, MergeOptions(CPU, torch.float32), torch.float32)
