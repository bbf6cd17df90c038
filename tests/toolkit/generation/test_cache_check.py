"""Models whose attention is not what our cache assumes are found by trying them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.architectures.models import Case, save_model
from tests.architectures.sizes import Sizes
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel

from tunesmith_torch.generation import prefix_attention
from tunesmith_torch.generation.cache_check import (
    can_pad,
    can_use_cached_attention,
    declare_copy,
)
from tunesmith_torch.testing.tiny_model import build_tiny_model

SIZES = Sizes(layers=2)


def load(folder: Path, name: str) -> PreTrainedModel:
    save_model(Case(name), SIZES, 0, folder)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_usual_models_use_the_cache(family: str) -> None:
    model = build_tiny_model(family)
    assert can_use_cached_attention(model, 20)
    assert can_pad(model, 20)


@pytest.mark.parametrize("name", ["deepseek_v3", "bloom", "gpt_oss", "diffllama"])
def test_unusual_attention_is_left_to_the_model(tmp_path: Path, name: str) -> None:
    """Latent keys, ALiBi, sinks, and a difference of two softmaxes."""
    model = load(tmp_path, name)
    assert not can_use_cached_attention(model, 12)
    assert can_pad(model, 12)


def test_copies_share_the_tests_of_their_original() -> None:
    """Whichever is tested first, and also a copy of a copy."""
    model = build_tiny_model()
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    copies = [deepcopy(model) for _ in range(3)]
    declare_copy(copies[0], model)
    declare_copy(copies[1], copies[0])
    assert can_use_cached_attention(copies[0], 20) and can_pad(copies[0], 20)
    tried = len(passes)
    assert tried
    for each in (model, copies[1]):
        assert can_use_cached_attention(each, 20) and can_pad(each, 20)
    assert len(passes) == tried
    assert can_use_cached_attention(copies[2], 20)
    assert len(passes) > tried, "not declared"


def test_a_wrong_result_is_found_and_the_model_is_tried_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def wrong(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        out, weights = right(*args, **kwargs)
        return out * 1.5, weights

    model = build_tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    right = prefix_attention._attention
    monkeypatch.setattr(prefix_attention, "_attention", wrong)
    assert not can_use_cached_attention(model, 12)
    tried = len(calls)
    assert tried
    assert not can_use_cached_attention(model, 12)
    assert len(calls) == tried
    AttentionInterface.register(prefix_attention.ATTENTION_NAME, right)
