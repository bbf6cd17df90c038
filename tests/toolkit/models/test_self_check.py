"""The comparison of each layout of rows with the plain model, before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, ShadowConfig
from tables import build
from torch import nn

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.data.packing import MicroBatch
from tunesmith_torch.kernels.fused_lora import FusedLoraLinear
from tunesmith_torch.losses import selected_positions
from tunesmith_torch.models.adapters import AdaptedModel, adapt_full, adapt_lora, adapt_peft
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.self_check import choose_check_lengths, choose_row_layout
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import build_tiny_config, save_tiny_model

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")


def choose(adapted: AdaptedModel, *, packing: bool = True, longest: int = 14) -> tuple[str, str]:
    layout = choose_row_layout(adapted, packing=packing, longest=longest)
    return layout.kind, layout.reason


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"dropout": 0.3}], ids=str)
def test_good_models_get_the_layout_that_was_asked_for(
    tiny_folder: Path, precision: str, packing: bool, options: dict[str, Any]
) -> None:
    picked = pick_precision(CPU, precision)  # type: ignore[arg-type]
    base = load_model(tiny_folder, CPU, picked, packing=packing)
    adapted = adapt_lora(base, picked, build(AdapterOptions, **options), 3)
    assert any(isinstance(module, FusedLoraLinear) for module in adapted.model.modules())
    assert choose(adapted, packing=packing) == ("packed" if packing else "padded", "")


@pytest.mark.parametrize("kind", ["prompts", "shadow"])
def test_adapters_that_need_the_forward_of_peft_compute_rows_alone(
    tiny_folder: Path, kind: str
) -> None:
    """Without it, virtual tokens have no effect, and a second model lacks its input."""
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    config = prompts if kind == "prompts" else ShadowConfig(task_type="CAUSAL_LM")
    kind, reason = choose(adapt_peft(base, FP32, config, 3, {}))
    assert kind == "alone" and "needs PEFT's own forward pass" in reason


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma2"])
def test_other_families_are_packed(tmp_path: Path, family: str) -> None:
    folder = save_tiny_model(tmp_path / family, family)
    for name in ("fp32", "bf16"):
        precision = pick_precision(CPU, name)  # type: ignore[arg-type]
        base = load_model(folder, CPU, precision, packing=True)
        assert choose(adapt_full(base, precision)) == ("packed", "")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_whose_packed_rows_see_each_other_is_padded(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Weights are scaled up: an untrained model hardly attends to anything."""
    picked = pick_precision(CPU, precision)  # type: ignore[arg-type]
    base = load_model(tiny_folder, CPU, picked, packing=True)
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    adapted = adapt_full(base, picked)
    assert choose(adapted) == ("packed", "")

    def one_row(*args: Any, **kwargs: Any) -> MicroBatch:
        batch = original(*args, **kwargs)
        T = batch.ids_BT.shape[1]
        if batch.boundaries is None:
            return batch
        return replace(
            batch, positions_BT=torch.arange(T)[None], boundaries=torch.tensor([0, T]).int()
        )

    original = selected_positions.collate
    monkeypatch.setattr(selected_positions, "collate", one_row)
    kind, reason = choose(adapted)
    assert kind == "padded"
    assert "change log-probabilities" in reason
    assert base.model.config._attn_implementation == "sdpa", "its own attention is back"


def changed_logits(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> AdaptedModel:
    """Return a model whose predictions are changed after its head, out of sight of the layouts."""

    def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        out.logits = change(out.logits)
        return out

    base = load_model(folder, CPU, FP32, packing=True)
    base.model.register_forward_hook(hook, with_kwargs=True)
    return adapt_full(base, FP32)


def test_a_model_that_changes_its_logits_is_computed_row_by_row(tiny_folder: Path) -> None:
    kind, reason = choose(changed_logits(tiny_folder, lambda logits: logits * 3))
    assert kind == "alone"
    assert "change log-probabilities" in reason


def test_predictions_from_later_tokens_are_refused(tiny_folder: Path) -> None:
    adapted = changed_logits(tiny_folder, lambda logits: logits + logits.mean(1, keepdim=True))
    with pytest.raises(EnvironmentProblem, match="see later tokens") as caught:
        choose(adapted)
    assert caught.value.hint == "choose a causal language model"


def test_predictions_by_chance_are_refused(tiny_folder: Path) -> None:
    adapted = changed_logits(tiny_folder, lambda logits: logits + torch.randn_like(logits))
    with pytest.raises(EnvironmentProblem, match="change from one pass to the next"):
        choose(adapted)


def test_rows_of_the_check_are_longer_than_a_window_that_rows_in_training_exceed() -> None:
    config = build_tiny_config("mistral")
    config.sliding_window = 32
    assert choose_check_lengths(config, 20) == (9, 14)
    assert choose_check_lengths(config, 200) == (9, 14, 35)
    config.sliding_window = 4096
    assert choose_check_lengths(config, 8192) == (9, 14), "so long a row costs too much"
