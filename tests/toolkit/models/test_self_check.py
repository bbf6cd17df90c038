"""The comparison of the fast kernels with the plain model, before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import build

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.data.packing import MicroBatch
from tunesmith_torch.kernels.fused_lora import FusedLoraLinear
from tunesmith_torch.losses import selected_positions
from tunesmith_torch.models.adapters import adapt_full, adapt_lora
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.self_check import check_logprobs
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"dropout": 0.3}], ids=str)
def test_good_models_are_accepted(
    tiny_folder: Path, precision: str, packing: bool, options: dict[str, Any]
) -> None:
    picked = pick_precision(CPU, precision)  # type: ignore[arg-type]
    base = load_model(tiny_folder, CPU, picked, packing=packing)
    adapted = adapt_lora(base, picked, build(AdapterOptions, **options), 3)
    assert any(isinstance(module, FusedLoraLinear) for module in adapted.model.modules())
    check_logprobs(adapted, packing=packing)


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma2"])
def test_other_families_are_accepted(tmp_path: Path, family: str) -> None:
    folder = save_tiny_model(tmp_path / family, family)
    for name in ("fp32", "bf16"):
        precision = pick_precision(CPU, name)  # type: ignore[arg-type]
        base = load_model(folder, CPU, precision, packing=True)
        check_logprobs(adapt_full(base, precision), packing=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_between_packed_rows_is_refused(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Weights are scaled up: an untrained model hardly attends to anything."""
    picked = pick_precision(CPU, precision)  # type: ignore[arg-type]
    base = load_model(tiny_folder, CPU, picked, packing=True)
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    adapted = adapt_full(base, picked)
    check_logprobs(adapted, packing=True)

    def one_row(*args: Any, **kwargs: Any) -> MicroBatch:
        batch = original(*args, **kwargs)
        T = batch.ids_BT.shape[1]
        return replace(
            batch, positions_BT=torch.arange(T)[None], boundaries=torch.tensor([0, T]).int()
        )

    original = selected_positions.collate
    monkeypatch.setattr(selected_positions, "collate", one_row)
    with pytest.raises(EnvironmentProblem, match=r"difference of .* nats") as caught:
        check_logprobs(adapted, packing=True)
    assert caught.value.hint == "set packing = false"
