"""A tensor that training did not change, or that a merge lost, is found by its name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith_torch.models.adapters import adapt_lora
from tunesmith_torch.models.artifacts import ADAPTER_WEIGHTS_FILE
from tunesmith_torch.models.loading import load_base
from tunesmith_torch.models.merging import MergeOptions, save_merged
from tunesmith_torch.models.tensor_changes import (
    describe_lost,
    describe_unchanged,
    digest_trainable,
    list_lost_changes,
)
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model

CPU = torch.device("cpu")
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
SMALL = {"num_experts": 4, "moe_intermediate_size": 16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_change_of_one_bit_is_seen(dtype: torch.dtype) -> None:
    model = nn.Linear(7, 5).to(dtype)
    model.bias.requires_grad = False
    before = digest_trainable(model)
    assert set(before) == {"weight"}
    with torch.no_grad():
        model.bias += 1
    assert describe_unchanged(before, digest_trainable(model)) == (
        "1 of 1 trainable tensor did not change in training: weight"
    )
    with torch.no_grad():
        model.weight[3, 2] = torch.nextafter(model.weight[3, 2], torch.ones((), dtype=dtype))
    assert describe_unchanged(before, digest_trainable(model)) == ""


def test_equal_tensors_that_change_alike_are_seen() -> None:
    """Norms start as ones, and the first step of AdamW moves all of them by the same amount."""
    model = nn.LayerNorm(64)
    before = digest_trainable(model)
    with torch.no_grad():
        model.weight[::2] -= 1e-3
        model.weight[1::2] += 1e-3
        model.bias[::2] -= 1e-3
        model.bias[1::2] += 1e-3
    changed = describe_unchanged(before, digest_trainable(model))
    assert "weight" not in changed


def test_a_frozen_expert_is_named_beside_experts_that_change() -> None:
    model = nn.Module()
    model.experts = nn.Module()
    model.experts.register_parameter("gate_up_proj", nn.Parameter(torch.ones(3, 4, 2)))
    before = digest_trainable(model)
    with torch.no_grad():
        model.experts.gate_up_proj[[0, 2]] += 1
    assert describe_unchanged(before, digest_trainable(model)) == (
        "1 of 3 trainable tensors did not change in training: experts.gate_up_proj[1]"
    )


@pytest.fixture(params=["llama", "qwen3_moe"])
def merged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base model, an adapter with values, and their merge."""
    is_moe = request.param == "qwen3_moe"
    base = save_tiny_model(tmp_path / "base", request.param, changes=SMALL if is_moe else None)
    options = AdapterOptions(rank=2, alpha=4.0, target_parameters=EXPERTS if is_moe else [])
    loaded = load_base(base, device=CPU, dtype=torch.float32)
    adapted = adapt_lora(loaded, pick_precision(CPU, "fp32"), options, 0)
    with torch.no_grad():
        for name, parameter in adapted.named_trainable_parameters:
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    assert isinstance(adapted.model, PeftModel)
    adapted.model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    (tmp_path / "merged").mkdir()
    save_merged(
        base, tmp_path / "adapter", tmp_path / "merged",
        MergeOptions(device=CPU, dtype=torch.float32), torch.float32,
    )  # fmt: skip
    return base, tmp_path / "adapter", tmp_path / "merged"


def test_each_lost_tensor_of_a_merge_is_named(merged: tuple[Path, Path, Path]) -> None:
    """Each tensor that the adapter changes, put back to its value in the base model."""
    base, adapter, folder = merged
    lost, count = list_lost_changes(base, adapter, folder)
    assert lost == [] and count >= 8
    (file,), (original,) = (sorted(path.glob("*.safetensors")) for path in (folder, base))
    weights, before = load_file(file), load_file(original)
    changed = [n for n in weights if not torch.equal(weights[n], before[n].float())]
    assert len(changed) == count
    for name in changed:
        save_file({**weights, name: before[name].float()}, file, metadata={"format": "pt"})
        assert list_lost_changes(base, adapter, folder) == ([name], count)
    save_file({n: w for n, w in weights.items() if n != changed[0]}, file)
    assert list_lost_changes(base, adapter, folder)[0] == [changed[0]]
    assert changed[0] in describe_lost([changed[0]])


def test_an_adapter_that_changes_nothing_loses_nothing(merged: tuple[Path, Path, Path]) -> None:
    base, adapter, folder = merged
    weights = load_file(adapter / ADAPTER_WEIGHTS_FILE)
    zeros = {n: w * ("lora_B" not in n) for n, w in weights.items()}
    save_file(zeros, adapter / ADAPTER_WEIGHTS_FILE)
    shutil.rmtree(folder)
    shutil.copytree(base, folder)
    assert list_lost_changes(base, adapter, folder) == ([], 0)
