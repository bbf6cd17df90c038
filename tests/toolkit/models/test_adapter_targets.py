"""Names of modules in the options of an adapter: each has an effect, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tables import build

from tunesmith.errors import UsageError
from tunesmith_torch.models.adapter_targets import matching_names, text_modules
from tunesmith_torch.models.adapters import AdaptedModel, adapt_lora, build_lora_config
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import tiny_model

FP32 = pick_precision(torch.device("cpu"), "fp32")


def adapt(model: Any, *, fused_kernels: bool = True, **options: Any) -> AdaptedModel:
    base = LoadedBase(model, None, model.config, None)  # type: ignore[arg-type]
    adapter = build(AdapterOptions, rank=2, **options)
    return adapt_lora(base, FP32, adapter, 0, fused_kernels=fused_kernels)


def fully_trained(adapted: AdaptedModel) -> set[str]:
    """Return the names of the modules that are trained fully."""
    names = [name for name, _ in adapted.named_trainable_parameters if "modules_to_save" in name]
    return {name.split(".modules_to_save")[0].removeprefix("base_model.model.") for name in names}


def test_a_module_to_save_that_does_not_exist_is_refused_with_the_names_of_modules() -> None:
    with pytest.raises(UsageError, match='modules_to_save: no module is named "lm_haed"') as caught:
        adapt(tiny_model(), modules_to_save=["lm_haed"])
    hint = str(caught.value.hint)
    assert "lm_head" in hint and "embed_tokens" in hint and "input_layernorm" in hint
    assert "rotary_emb" not in hint, "it has no weights"


@pytest.mark.parametrize(
    ("name", "problem"), [("rotary_emb", "it has no weights"), ("layers", "a list of modules")]
)
def test_a_module_that_cannot_be_trained_fully_is_refused(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        adapt(tiny_model(), modules_to_save=[name])


def test_a_name_means_modules_of_this_name_and_not_of_another_that_ends_with_it() -> None:
    assert fully_trained(adapt(tiny_model(), modules_to_save=["norm"])) == {"model.norm"}
    adapted = adapt(tiny_model(), modules_to_save=["input_layernorm"])
    assert fully_trained(adapted) == {f"model.layers.{n}.input_layernorm" for n in range(2)}


def test_weights_are_tied_only_where_a_tied_module_is_trained() -> None:
    for name, tied in (("norm", False), ("lm_head", True), ("embed_tokens", True)):
        options = build(AdapterOptions, modules_to_save=[name])
        assert build_lora_config(tiny_model(), options).ensure_weight_tying is tied, name


def test_names_that_are_exact_are_stored_as_they_are_written() -> None:
    config = build_lora_config(tiny_model(), build(AdapterOptions, modules_to_save=["lm_head"]))
    assert config.modules_to_save == ["lm_head"]


def test_names_match_between_dots() -> None:
    assert matching_names(["a.b", "b", "ab", "a.ab"], "b") == ["a.b", "b"]
