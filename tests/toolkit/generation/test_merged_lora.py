"""Merged adapters: the same completions, and unmerged weights afterwards."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.merged_lora import MIN_TOKENS_TO_MERGE, merged_adapters
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.testing.tiny_model import build_tiny_model

MANY = MIN_TOKENS_TO_MERGE


def adapted(dtype: torch.dtype = torch.float32, adapters: int = 1) -> PeftModel:
    """Return a tiny model whose adapters change its logits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = build_tiny_model().to(dtype).eval()
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        fused_lora.register_fused_lora(config, base)
        model: PeftModel = get_peft_model(base, config)
        for number in range(1, adapters):
            model.add_adapter(f"more {number}", config)
    model.base_model.set_adapter(["default", *(f"more {n}" for n in range(1, adapters))])
    fused_lora.group_by_input(model)
    return model.eval()


def layers(model: PeftModel) -> list[fused_lora.FusedLoraLinear]:
    return [module for module in model.modules() if isinstance(module, fused_lora.FusedLoraLinear)]


def logits(model: PeftModel) -> torch.Tensor:
    ids_1T = torch.arange(5, 35)[None]
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=ids_1T, use_cache=False).logits
    return out


@pytest.mark.parametrize("adapters", [1, 2])
def test_merged_layers_give_the_same_logits(adapters: int) -> None:
    model = adapted(adapters=adapters)
    plain = logits(model)
    with model.disable_adapter():
        assert float((logits(model) - plain).abs().max()) > 1e-2, "the adapters change the logits"
    with merged_adapters(model, MANY):
        assert all(layer.merged_OI is not None for layer in layers(model))
        for layer in layers(model):
            layer.lora_A["default"].weight.data.neg_()  # not used while merged
        assert torch.allclose(logits(model), plain, atol=1e-5)
        for layer in layers(model):
            layer.lora_A["default"].weight.data.neg_()
    assert all(layer.merged_OI is None for layer in layers(model))
    assert torch.equal(logits(model), plain)


def test_frozen_weights_are_unchanged_afterwards() -> None:
    model = adapted()
    before = [layer.get_base_layer().weight.clone() for layer in layers(model)]
    with pytest.raises(KeyboardInterrupt), merged_adapters(model, MANY):
        raise KeyboardInterrupt
    for layer, weight in zip(layers(model), before, strict=True):
        assert torch.equal(layer.get_base_layer().weight, weight) and layer.merged_OI is None


def test_completions_are_those_of_separate_adapters() -> None:
    model = adapted()
    prompts = [[7, 8, 9], [7, 8, 9], [11, 12], [5, 6, 7, 8, 9]]
    options = {"max_new_tokens": 16, "end_ids": frozenset({1}), "sampler": Sampler(seed=3)}
    assert len(prompts) * 16 < MIN_TOKENS_TO_MERGE
    with merged_adapters(model, MANY):
        with_merging = generate(model, prompts, **options)  # type: ignore[arg-type]
    without = generate(model, prompts, **options)  # type: ignore[arg-type]
    assert [answer.ids for answer in with_merging] == [answer.ids for answer in without]
    for ours, theirs in zip(with_merging, without, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


@pytest.mark.parametrize(("limit", "merged"), [(MANY, True), (MANY - 1, False)])
def test_generation_merges_if_it_may_take_many_tokens(limit: int, merged: bool) -> None:
    model = adapted()
    seen = []
    first = layers(model)[0]
    first.register_forward_pre_hook(lambda layer, _: seen.append(layer.merged_OI is not None))
    every_id = frozenset(range(model.config.vocab_size))  # the first token ends the completion
    generate(model, [[7, 8, 9]], max_new_tokens=limit, end_ids=every_id)
    assert seen[-1] == merged


def test_nothing_is_merged_if_it_is_inexact_too_slow_or_too_large() -> None:
    rounded, model = adapted(torch.bfloat16), adapted()
    with merged_adapters(rounded, MANY):
        assert all(layer.merged_OI is None for layer in layers(rounded))
    with merged_adapters(model, MANY - 1):
        assert all(layer.merged_OI is None for layer in layers(model))
    with model.disable_adapter(), merged_adapters(model, MANY):
        assert all(layer.merged_OI is None for layer in layers(model))
    with merged_adapters(model, MANY, max_bytes=1000):
        assert all(layer.merged_OI is None for layer in layers(model))
