"""The last layer is trimmed, unless gradient checkpointing computes it twice."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tunesmith_torch.data.packing import Example, collate
from tunesmith_torch.kernels.last_layer import is_recomputed
from tunesmith_torch.losses.selected_positions import hidden_at_targets
from tunesmith_torch.models.loading import enable_gradient_checkpointing
from tunesmith_torch.testing.tiny_model import build_tiny_model


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mixtral"])
def test_checkpointing_is_seen_when_it_is_switched_on_and_off(family: str) -> None:
    model = build_tiny_model(family).train()
    for switched_on in (False, True, False, True):
        if switched_on:
            enable_gradient_checkpointing(model)
        else:
            model.activation_checkpointing_disable()
        assert model.is_activation_checkpointing is switched_on
        assert is_recomputed(model.get_decoder()) is switched_on


def test_a_part_of_the_last_layer_may_be_checkpointed_alone() -> None:
    decoder = build_tiny_model().get_decoder()
    decoder.layers[0].mlp.gradient_checkpointing = True
    assert not is_recomputed(decoder)
    decoder.layers[-1].mlp.gradient_checkpointing = True
    assert is_recomputed(decoder)


def test_a_forward_pass_does_not_visit_all_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_tiny_model().train()
    example = Example(list(range(1, 9)), [False] * 5 + [True] * 3)
    batch = collate([example], [0], packed=False)
    visited: list[nn.Module] = []
    original = nn.Module.named_modules

    def record(module: nn.Module, *args: object, **kwargs: object) -> object:
        visited.append(module)
        return original(module, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(nn.Module, "named_modules", record)
    with torch.no_grad():
        assert hidden_at_targets(model, batch).shape[0] == 3
    assert model not in visited
