"""Names of modules in the options of an adapter: each has an effect, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from tables import build
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from tunesmith.errors import IntegrityError, UsageError
from tunesmith_torch.models.adapter_targets import find_matching_names, find_text_modules
from tunesmith_torch.models.adapters import (
    AdaptedModel,
    adapt_full,
    adapt_lora,
    build_lora_config,
)
from tunesmith_torch.models.artifacts import check_loaded_adapter
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import (
    build_tiny_config,
    build_tiny_model,
    build_tiny_tokenizer,
)

FP32 = pick_precision(torch.device("cpu"), "fp32")


def base_of(model: Any) -> LoadedBase:
    return LoadedBase(model, build_tiny_tokenizer(), model.config, Path())


def adapt(model: Any, *, fused_kernels: bool = True, **options: Any) -> AdaptedModel:
    adapter = build(AdapterOptions, rank=2, **options)
    return adapt_lora(base_of(model), FP32, adapter, 0, fused_kernels=fused_kernels)


def fully_trained(adapted: AdaptedModel) -> set[str]:
    """Return the names of the modules that are trained fully."""
    names = [name for name, _ in adapted.named_trainable_parameters if "modules_to_save" in name]
    return {name.split(".modules_to_save")[0].removeprefix("base_model.model.") for name in names}


def test_a_module_to_save_that_does_not_exist_is_refused_with_the_names_of_modules() -> None:
    with pytest.raises(UsageError, match='modules_to_save: no module is named "lm_haed"') as caught:
        adapt(build_tiny_model(), modules_to_save=["lm_haed"])
    hint = str(caught.value.hint)
    assert "lm_head" in hint and "embed_tokens" in hint and "input_layernorm" in hint
    assert "rotary_emb" not in hint, "it has no weights"


@pytest.mark.parametrize(
    ("name", "problem"), [("rotary_emb", "it has no weights"), ("layers", "a list of modules")]
)
def test_a_module_that_cannot_be_trained_fully_is_refused(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        adapt(build_tiny_model(), modules_to_save=[name])


def test_a_name_means_modules_of_this_name_and_not_of_another_that_ends_with_it() -> None:
    assert fully_trained(adapt(build_tiny_model(), modules_to_save=["norm"])) == {"model.norm"}
    adapted = adapt(build_tiny_model(), modules_to_save=["input_layernorm"])
    assert fully_trained(adapted) == {f"model.layers.{n}.input_layernorm" for n in range(2)}


def test_weights_are_tied_only_where_a_tied_module_is_trained() -> None:
    for name, tied in (("norm", False), ("lm_head", True), ("embed_tokens", True)):
        options = build(AdapterOptions, modules_to_save=[name])
        assert build_lora_config(build_tiny_model(), options).ensure_weight_tying is tied, name


def test_names_that_are_exact_are_stored_as_they_are_written() -> None:
    config = build_lora_config(
        build_tiny_model(), build(AdapterOptions, modules_to_save=["lm_head"])
    )
    assert config.modules_to_save == ["lm_head"]


def test_names_match_between_dots() -> None:
    assert find_matching_names(["a.b", "b", "ab", "a.ab"], "b") == ["a.b", "b"]


# --------------------------------------------------------------------------- what gets an adapter

MIXTURES = {
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16},
    "olmoe": {"num_experts": 4},
    "glm4_moe": {
        "n_routed_experts": 4, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
        "n_shared_experts": 1,
    },
}  # fmt: skip
EXPERTS = ["experts.down_proj", "experts.gate_up_proj"]
IDS = torch.tensor([[5, 9, 200, 17, 42, 300, 7]])


SIZES = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "pad_token_id": 2, "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip


def mixture(family: str) -> PreTrainedModel:
    config = CONFIG_MAPPING[family](**SIZES, **{"num_experts_per_tok": 2, **MIXTURES[family]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def linear_layers(model: PreTrainedModel) -> set[str]:
    head = model.get_output_embeddings()
    return {name for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}


def adapted_modules(adapted: AdaptedModel) -> set[str]:
    found = (n for n, m in adapted.model.named_modules() if isinstance(m, LoraLayer))
    return {name.removeprefix("base_model.model.").replace(".base_layer", "") for name in found}


def never_trained(adapted: AdaptedModel) -> list[str]:
    """Return the trainable parameters that a text gives no gradient."""
    adapted.model(input_ids=IDS, labels=IDS).loss.backward()
    return [name for name, p in adapted.named_trainable_parameters if p.grad is None]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model.eval()(IDS, use_cache=False).logits
    return result


def train_a_little(adapted: AdaptedModel) -> None:
    """Move every trainable weight, so that each adapter has an effect."""
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in adapted.named_trainable_parameters:
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("fused_kernels", [True, False])
@pytest.mark.parametrize("family", MIXTURES)
def test_all_linear_means_each_linear_layer_and_no_expert(family: str, fused_kernels: bool) -> None:
    model = mixture(family)
    expected = linear_layers(model)
    adapted = adapt(model, fused_kernels=fused_kernels)
    assert adapted_modules(adapted) == expected
    assert adapted.details["adapted_modules"] == len(expected)
    assert adapted.details["not_adapted"] == EXPERTS
    assert never_trained(adapted) == []


@pytest.mark.parametrize("fused_kernels", [True, False])
@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("parameters", [[], EXPERTS])
def test_the_adapter_of_a_mixture_is_read_by_plain_peft(
    tmp_path: Path, family: str, fused_kernels: bool, parameters: list[str]
) -> None:
    adapted = adapt(mixture(family), fused_kernels=fused_kernels, target_parameters=parameters)
    untouched = logits(mixture(family))
    train_a_little(adapted)
    trained = logits(adapted.model)
    assert (trained - untouched).abs().max() > 1e-3
    adapted.model.save_pretrained(tmp_path)
    check_loaded_adapter(adapted.model, tmp_path, "default")  # type: ignore[arg-type]
    plain = PeftModel.from_pretrained(mixture(family), tmp_path)
    assert torch.allclose(logits(plain), trained, atol=1e-5)
    merged = plain.merge_and_unload()
    assert torch.allclose(logits(merged), trained, atol=1e-5)


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_get_an_adapter_by_the_names_of_their_parameters(family: str) -> None:
    adapted = adapt(mixture(family), target_parameters=EXPERTS)
    assert "not_adapted" not in adapted.details
    assert {*EXPERTS} < {*adapted.details["targets"]}
    assert never_trained(adapted) == []
    only = adapt(mixture(family), target_modules=[], target_parameters=["experts.down_proj"])
    assert only.details["targets"] == ["experts.down_proj"]
    assert only.details["not_adapted"] == ["experts.gate_up_proj"]


def test_a_name_in_a_mixture_means_the_linear_layer_and_not_the_experts() -> None:
    adapted = adapt(mixture("glm4_moe"), target_modules=["up_proj"])
    assert adapted_modules(adapted) == {
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.shared_experts.up_proj",
    }


def test_dropout_on_layers_that_peft_reads_as_parameters_is_refused() -> None:
    with pytest.raises(UsageError, match=r"adapter\.dropout: PEFT does not support it for"):
        adapt(mixture("glm4_moe"), dropout=0.1)
    adapt(mixture("glm4_moe"), dropout=0.1, target_modules=["q_proj"])


@pytest.mark.parametrize("name", ["experts.gate_proj", "q_proj.weight", "norm.weight"])
def test_a_parameter_that_cannot_have_an_adapter_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f'no parameter .* is named "{name}"') as caught:
        adapt(mixture("qwen3_moe"), target_parameters=[name])
    assert "experts.gate_up_proj" in str(caught.value.hint)


def test_a_target_that_is_no_layer_is_refused() -> None:
    with pytest.raises(UsageError, match='"mlp" is a LlamaMLP, which cannot have') as error:
        adapt(build_tiny_model(), target_modules=["mlp"])
    assert "up_proj" in str(error.value.hint)


# --------------------------------------------------------------------------- multimodal models


def multimodal() -> PreTrainedModel:
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = CONFIG_MAPPING["gemma3"](
        text_config=build_tiny_config("gemma3_text").to_dict(), vision_config=vision,
        mm_tokens_per_image=1,
    )  # fmt: skip
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"]])
def test_only_layers_that_text_passes_through_get_an_adapter(targets: Any) -> None:
    model = multimodal()
    assert any("vision_tower" in name for name in linear_layers(model))
    adapted = adapt(model, target_modules=targets)
    assert never_trained(adapted) == []
    names = adapted_modules(adapted)
    assert names and all("language_model" in name for name in names)
    assert adapted.num_trainable_parameters == sum(
        p.numel() for n, p in adapted.model.named_parameters() if ".lora_" in n
    )


def laguna() -> PreTrainedModel:
    """A mixture whose shared experts PEFT renames when it reads an adapter."""
    config = CONFIG_MAPPING["laguna"](
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, num_attention_heads_per_layer=[4, 4],
    )  # fmt: skip
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def test_a_layer_whose_adapter_peft_does_not_read_again_gets_none(tmp_path: Path) -> None:
    adapted = adapt(laguna())
    train_a_little(adapted)
    expected = logits(adapted.model)
    adapted.model.save_pretrained(tmp_path)
    read = PeftModel.from_pretrained(laguna(), tmp_path)
    read.base_model.model.load_state_dict(
        {k: v for k, v in adapted.model.base_model.model.state_dict().items() if "lora" not in k},
        strict=False,
    )
    check_loaded_adapter(read, tmp_path, "default")
    torch.testing.assert_close(logits(read), expected)
    with pytest.raises(UsageError, match="it could not read"):
        adapt(laguna(), target_modules=["shared_experts.up_proj"])


def test_a_tensor_that_peft_has_not_read_is_found(tmp_path: Path) -> None:
    adapted = adapt(build_tiny_model())
    train_a_little(adapted)
    adapted.model.save_pretrained(tmp_path)
    read = PeftModel.from_pretrained(build_tiny_model(), tmp_path)
    check_loaded_adapter(read, tmp_path, "default")
    parameter = next(p for n, p in read.named_parameters() if "lora_B" in n)
    parameter.data.zero_()
    with pytest.raises(IntegrityError, match="PEFT has not read"):
        check_loaded_adapter(read, tmp_path, "default")


class GroupedLinear(nn.Linear):
    """A block-diagonal layer, as DeepSeek V4 has it: its input has an axis for the groups."""

    __module__ = "transformers.models.deepseek_v4.modeling_deepseek_v4"

    def forward(self, x_BGK: torch.Tensor) -> torch.Tensor:
        weight_GKN = self.weight.view(2, -1, self.in_features).transpose(1, 2)
        return torch.bmm(x_BGK.reshape(-1, 2, self.in_features).transpose(0, 1), weight_GKN)


def test_a_layer_that_is_more_than_a_product_gets_no_adapter() -> None:
    model = build_tiny_model()
    layer = model.model.layers[0].self_attn
    layer.o_proj = GroupedLinear(layer.o_proj.in_features, layer.o_proj.out_features, bias=False)
    names = adapted_modules(adapt(model))
    assert "model.layers.1.self_attn.o_proj" in names
    assert "model.layers.0.self_attn.o_proj" not in names
    with pytest.raises(UsageError, match=r"GroupedLinear, which cannot have an adapter"):
        adapt(model, target_modules=["o_proj"])


def test_full_fine_tuning_counts_and_trains_what_text_passes_through() -> None:
    model = multimodal()
    adapted = adapt_full(base_of(model), FP32)
    assert adapted.details["frozen"] == ["model.multi_modal_projector", "model.vision_tower"]
    assert never_trained(adapted) == []
    text = sum(p.numel() for m in [model.get_decoder()] for p in m.parameters())
    assert adapted.num_trainable_parameters == text


def test_a_module_of_the_vision_tower_is_refused() -> None:
    with pytest.raises(UsageError, match="no module is named"):
        adapt(multimodal(), modules_to_save=["vision_tower"])
    with pytest.raises(UsageError, match="no module is named"):
        adapt(multimodal(), target_modules=["out_proj"])


def test_all_modules_of_a_text_model_are_text_modules() -> None:
    model = build_tiny_model()
    assert {*find_text_modules(model)} == {name for name, _ in model.named_modules() if name}
