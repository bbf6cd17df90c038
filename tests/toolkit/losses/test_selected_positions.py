"""Loss and gradients at trained positions equal those of all logits and F.cross_entropy."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.data.packing import Example, MicroBatch, collate
from tunesmith_torch.kernels import last_layer
from tunesmith_torch.kernels.varlen_attention import register_varlen_attention
from tunesmith_torch.losses import selected_positions
from tunesmith_torch.losses.selected_positions import (
    get_lm_head,
    hidden_at_targets,
    max_logprob_difference,
)

V = 61
SMALL = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama tied": ("Llama", {"tie_word_embeddings": True}),
    "Llama untied": ("Llama", {"tie_word_embeddings": False}),
    "Llama biased": ("Llama", {"mlp_bias": True, "attention_bias": True}),
    "Qwen2": ("Qwen2", {}),
    "Qwen3": ("Qwen3", {}),
    "Qwen3Moe": ("Qwen3Moe", MOE),
    "Gemma2": ("Gemma2", {"sliding_window": 8, "final_logit_softcapping": 3.0}),
    "Gemma3": ("Gemma3Text", {"sliding_window": 8}),
    "Phi3": ("Phi3", {}),
    "Granite": ("Granite", {"logits_scaling": 4.0, "residual_multiplier": 0.3}),
    "Mistral": ("Mistral", {"sliding_window": 8}),
    "OLMo2": ("Olmo2", {}),
    "Cohere": ("Cohere", {"logit_scale": 0.25}),
    "Mixtral": ("Mixtral", {"num_local_experts": 4}),
}


def build(name: str) -> Any:
    torch.manual_seed(0)
    kind, options = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **options})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
        else:
            nn.init.normal_(parameter, mean=0.5, std=0.1)
    model.set_attn_implementation(register_varlen_attention())
    return model.train()


def batches() -> tuple[list[Example], MicroBatch, MicroBatch]:
    torch.manual_seed(1)
    examples = []
    for length in (12, 3, 21):
        ids, trained = torch.randint(3, V, (length,)), torch.arange(length) * 3 > length
        examples.append(Example(ids.numpy(), trained.numpy(), torch.rand(length).numpy()))
    micro_batches = (collate(examples, [0, 1, 2], packed=packed) for packed in (True, False))
    return examples, *micro_batches


def reference_loss(model: Any, examples: list[Example]) -> Tensor:
    """Return the loss of each row alone through the complete model, with F.cross_entropy."""
    model.set_attn_implementation("eager") if not hasattr(
        model, "peft_config"
    ) else model.get_base_model().set_attn_implementation("eager")
    total = torch.zeros(())
    for example in examples:
        ids, trained = torch.tensor(example.ids)[None], torch.tensor(example.trained)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        nll = F.cross_entropy(logits, ids[0, 1:], reduction="none")
        total = total + (nll * torch.tensor(example.weights)[1:])[trained[1:]].sum()
    selected_positions.unwrap_peft(model).set_attn_implementation(register_varlen_attention())
    return total


def check_equals_reference(model: Any, trim: bool) -> None:
    examples, packed, padded = batches()
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected = reference_loss(model, examples)
    expected_grads = torch.autograd.grad(expected, parameters, allow_unused=True)
    for batch in (packed, padded):
        fused = get_lm_head(model).loss(hidden_at_targets(model, batch, trim=trim), batch)
        torch.testing.assert_close(fused, expected, rtol=1e-5, atol=1e-5)
        grads = torch.autograd.grad(fused, parameters, allow_unused=True)
        for a, b in zip(grads, expected_grads, strict=True):
            if b is None or not b.any():
                assert a is None or not a.any()
            else:
                torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5 * b.abs().max().item())


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_equal_the_reference(name: str, trim: bool) -> None:
    check_equals_reference(build(name), trim)


@pytest.mark.parametrize("name", ["Llama tied", "Gemma2", "Phi3"])
def test_loss_and_gradients_with_lora_equal_the_reference(name: str) -> None:
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    check_equals_reference(peft.get_peft_model(build(name), config), trim=True)


def test_loss_and_gradients_with_a_trained_copy_of_the_head() -> None:
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = peft.get_peft_model(build("Llama untied"), config)
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.5)
    check_equals_reference(model, trim=True)
    with model.disable_adapter():
        original = model.get_base_model().lm_head.original_module.weight
        assert get_lm_head(model).weight_VD is original


@pytest.mark.parametrize("name", ["Llama tied", "Gemma2", "Granite", "Cohere", "Llama biased"])
def test_logits_equal_the_models_own(name: str) -> None:
    model = build(name).eval()
    examples, _, padded = batches()
    found_NV = get_lm_head(model).logits(hidden_at_targets(model, padded))
    model.set_attn_implementation("eager")
    expected = []
    for example in examples:
        logits_TV = model(input_ids=torch.tensor(example.ids)[None], use_cache=False).logits[0]
        expected.append(logits_TV[:-1][torch.tensor(example.trained)[1:]])
    torch.testing.assert_close(found_NV, torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_trained_tokens_take_part_in_a_tied_head(tied: bool) -> None:
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[3, 9])
    model = peft.get_peft_model(build("Llama tied" if tied else "Llama untied"), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens" in name:
                parameter.mul_(2)
    check_equals_reference(model, trim=True)


@pytest.mark.parametrize("name", MODELS)
def test_logprob_difference_is_rounding(name: str) -> None:
    model = build(name)
    assert max_logprob_difference(model) < 1e-4
    assert max_logprob_difference(model, packed=False) < 1e-4
    assert all(module.training for module in model.modules())


def test_logprob_difference_shows_unsupported_architectures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A logit scale that is ignored, rows that attend to others, a trim that drops too much."""
    for name, option in (("Granite", "logits_scaling"), ("Gemma2", "final_logit_softcapping")):
        model = build(name)
        head = get_lm_head(model)._replace(softcap=None, scale=1.0)
        with monkeypatch.context() as patch:
            patch.setattr(selected_positions, "get_lm_head", lambda _, head=head: head)
            assert max_logprob_difference(model) > 0.05, option
    model = build("Llama tied")
    with monkeypatch.context() as patch:
        inner = selected_positions.collate

        def one_row(*args: Any, **kwargs: Any) -> MicroBatch:
            batch = inner(*args, **kwargs)
            T = batch.ids_BT.shape[1]
            object.__setattr__(batch, "positions_BT", torch.arange(T)[None])
            object.__setattr__(batch, "boundaries", torch.tensor([0, T], dtype=torch.int32))
            return batch

        patch.setattr(selected_positions, "collate", one_row)
        assert max_logprob_difference(model) > 0.05
    with monkeypatch.context() as patch:
        patch.setattr(
            last_layer,
            "_position_wise_modules",
            lambda decoder: [decoder.layers[-1].self_attn.k_proj],
        )
        assert max_logprob_difference(model) > 0.05


def test_the_decoder_is_found_where_transformers_does_not_find_it() -> None:
    """Llama 4 names another prefix than the attribute that holds its layers."""
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 48}
    config = transformers.Llama4TextConfig(**{**SMALL, **experts})
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert model.get_decoder() is model
    assert selected_positions.get_decoder(model) is model.model
    assert max_logprob_difference(model, packed=False) < 1e-4


def test_trimming_computes_fewer_positions_and_removes_its_hooks() -> None:
    model = build("Qwen3")
    keys, seen = list(model.state_dict()), {}
    for name, module in model.named_modules():
        if name.endswith(("mlp", "q_proj", "k_proj", "o_proj")):
            module.register_forward_hook(
                lambda m, args, out, name=name: seen.update({name: args[0].shape[1]}), prepend=True
            )
    _, packed, _ = batches()
    hooks = {
        name: (len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in model.named_modules()
    }
    hidden_at_targets(model, packed)
    N, T = len(packed.trained_N), packed.tokens
    assert seen["model.layers.1.mlp"] == seen["model.layers.1.self_attn.q_proj"] == N
    assert seen["model.layers.1.self_attn.o_proj"] == N
    assert seen["model.layers.1.self_attn.k_proj"] == seen["model.layers.0.mlp"] == T
    assert hooks == {
        n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()
    }
    assert keys == list(model.state_dict())


def test_gradient_checkpointing_with_a_frozen_base() -> None:
    """Adapters get the same gradients with checkpointing."""
    model = peft.get_peft_model(
        build("Llama tied"),
        peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False),
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    _, packed, _ = batches()
    results = []
    for gradient_checkpointing in (False, True):
        if gradient_checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        loss = get_lm_head(model).loss(hidden_at_targets(model, packed), packed)
        results.append(torch.autograd.grad(loss, parameters))
    for a, b in zip(*results, strict=True):
        assert b.any()
        torch.testing.assert_close(a, b)


def test_loss_without_trained_positions_is_zero() -> None:
    model = build("Llama tied")
    batch = collate([Example((5, 6, 7), (True, False, False))], [0])
    loss = get_lm_head(model).loss(hidden_at_targets(model, batch), batch)
    loss.backward()
    assert loss.item() == 0


def test_unsupported_heads_and_adapters_are_refused() -> None:
    model = peft.get_peft_model(build("Llama untied"), peft.LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(EnvironmentProblem, match="only a plain linear head"):
        get_lm_head(model)
    tuning = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(EnvironmentProblem, match="PROMPT_TUNING needs PEFT"):
        get_lm_head(peft.get_peft_model(build("Llama untied"), tuning))
