"""A method that nobody has classified is tested on the model, and refused if it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tunesmith.errors import UsageError
from tunesmith_peft import self_test
from tunesmith_peft.self_test import add_tested
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import Precision

# isort: split
from peft import PeftModel, PeftModelForCausalLM

SMALL: dict[str, Any] = {"num_virtual_tokens": 4}


def add(method: str, given: dict[str, Any], model: Path) -> Any:
    precision = Precision(torch.float32, "test")
    base = load_model(model, torch.device("cpu"), precision, packing=True)
    options: Any = SimpleNamespace(method=method, options=given)  # also refused methods
    return add_tested(base, precision, options, 0)


def test_a_sound_method_passes_and_keeps_its_initial_values(tiny_model: Path) -> None:
    adapted = add("lora", {"r": 4}, tiny_model)
    for name, parameter in adapted.named_trainable_parameters:
        assert parameter.grad is None and ("lora_B" not in name or not parameter.any())


def test_a_term_that_exists_in_training_only_is_seen(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PeftModelForCausalLM.forward

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        output = original(self, *args, **options)
        if self.training and output.loss is not None:
            output.loss = output.loss + 0.5
        return output

    monkeypatch.setattr(PeftModelForCausalLM, "forward", forward)
    with pytest.raises(UsageError, match=r"PEFT adds 0\.5 to the loss"):
        add("lora", {"r": 4}, tiny_model)


@pytest.mark.parametrize(
    ("method", "given", "reason"),
    [
        ("adalora", {}, "PEFT adds"),
        ("prompt_tuning", SMALL, "no effect"),
        ("adamss", {"r": 8}, "called after each step"),
        ("lily", {"r": 8}, "predictions depend on later tokens"),
    ],
)
def test_a_method_with_further_requirements_is_refused(
    method: str, given: dict[str, Any], reason: str, tiny_model: Path
) -> None:
    with pytest.raises(UsageError, match=reason):
        add(method, given, tiny_model)


def test_faults_are_seen(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are not saved, and an adapter that cannot be switched off."""
    with monkeypatch.context() as patch:
        patch.setattr(self_test, "set_peft_model_state_dict", lambda model, state: None)
        with pytest.raises(UsageError, match="do not bring its effect back"):
            add("lora", {"r": 4}, tiny_model)

    @contextmanager
    def stay_on(self: Any) -> Iterator[None]:
        yield

    def fail(self: Any) -> Any:
        raise NotImplementedError("no way back")

    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "disable_adapter", fail)
        with pytest.raises(UsageError, match="NotImplementedError: no way back"):
            add("lora", {"r": 4}, tiny_model)
    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "disable_adapter", stay_on)
        with pytest.raises(UsageError, match="switched off, it still changes"):
            add("lora", {"r": 4}, tiny_model)
