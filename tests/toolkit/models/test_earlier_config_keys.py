"""Saved configs have the keys that other engines read, and mean the same in both forms."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from tunesmith.errors import TunesmithWarning
from tunesmith_torch.models import legacy_config_keys
from tunesmith_torch.models.legacy_config_keys import build_legacy_keys, write_legacy_config_keys

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}  # fmt: skip
GEMMA3 = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 777_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 555.0},
}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Llama": (
        "llama",
        {"rope_parameters": {"rope_theta": 500_000.0, "rope_type": "default"}},
        {"rope_theta": 500_000.0},
    ),
    "Llama 3": (
        "llama",
        {"rope_parameters": {"rope_theta": 500_000.0, **LLAMA3}},
        {"rope_theta": 500_000.0, "rope_scaling": {**LLAMA3, "type": "llama3"}},
    ),
    "Qwen3": (
        "qwen3",
        {"rope_parameters": {"rope_theta": 3_000_000.0, "rope_type": "default"}},
        {"rope_theta": 3_000_000.0},
    ),
    "Qwen3 with YaRN": (
        "qwen3",
        {"rope_parameters": {"rope_theta": 3e6, "rope_type": "yarn", "factor": 4.0}},
        {
            "rope_theta": 3e6,
            "rope_scaling": {
                "rope_type": "yarn", "type": "yarn", "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "Gemma 3": (
        "gemma3_text",
        {"rope_parameters": GEMMA3, "layer_types": [*GEMMA3]},
        {
            "rope_theta": 777_000.0,
            "rope_local_base_freq": 555.0,
            "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 8.0},
        },
    ),
    "Phi-3": (
        "phi3",
        {
            "rope_parameters": {"rope_theta": 20_000.0, **LONGROPE},
            "original_max_position_embeddings": 16,
        },
        {
            "rope_theta": 20_000.0,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": LONGROPE["short_factor"],
                "long_factor": LONGROPE["long_factor"],
            },
        },
    ),
    "GLM-4, which rotates a part": (
        "glm4",
        {"rope_parameters": {"rope_theta": 123.0, "partial_rotary_factor": 0.5}},
        {"rope_theta": 123.0, "partial_rotary_factor": 0.5},
    ),
    "GPT-NeoX": (
        "gpt_neox",
        {"rope_parameters": {"rope_theta": 123.0, "partial_rotary_factor": 0.5}},
        {
            "rope_theta": 123.0, "partial_rotary_factor": 0.5,
            "rotary_emb_base": 123.0, "rotary_pct": 0.5,
        },
    ),
}  # fmt: skip
IDS = torch.tensor([[5, 9, 33, 17, 42, 30, 7, 12, 50, 3, 22, 60, 4, 18, 26, 35, 41, 58, 11, 2]])


def save(folder: Path, case: str) -> PreTrainedModel:
    family, rope, _ = CASES[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            CONFIG_MAPPING[family](**SIZES, **deepcopy(rope)), dtype=torch.float32
        ).eval()
    with torch.no_grad():  # attention that depends on positions, as in a trained model
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "att" in name:
                parameter.mul_(20)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def logprobs(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(IDS, use_cache=False).logits.double().log_softmax(-1)
    return result


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


@pytest.mark.parametrize("case", CASES)
def test_both_forms_are_there_and_transformers_reads_the_same_model(
    tmp_path: Path, case: str
) -> None:
    expected = logprobs(save(tmp_path, case))
    before = config_of(tmp_path)
    write_legacy_config_keys(tmp_path)
    config = config_of(tmp_path)
    assert config["rope_parameters"] == before["rope_parameters"]
    assert {key: config.get(key) for key in CASES[case][2]} == CASES[case][2]
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert torch.equal(logprobs(load(tmp_path)), expected)


@pytest.mark.parametrize("case", CASES)
def test_the_earlier_form_alone_is_the_same_model(tmp_path: Path, case: str) -> None:
    """transformers still reads it, in the place of an engine that knows no other."""
    expected = logprobs(save(tmp_path, case))
    write_legacy_config_keys(tmp_path)
    config = config_of(tmp_path)
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(logprobs(load(tmp_path)), expected)
    for key in CASES[case][2]:
        del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert not torch.allclose(logprobs(load(tmp_path)), expected), "the keys must matter"


def test_the_text_part_of_a_multimodal_config_gets_the_keys(tmp_path: Path) -> None:
    text = {**SIZES, "rope_parameters": deepcopy(GEMMA3), "layer_types": [*GEMMA3]}
    CONFIG_MAPPING["gemma3"](text_config=text).save_pretrained(tmp_path)
    write_legacy_config_keys(tmp_path)
    keys = config_of(tmp_path)["text_config"]
    assert (keys["rope_theta"], keys["rope_local_base_freq"]) == (777_000.0, 555.0)


def test_several_thetas_without_an_earlier_form_are_skipped() -> None:
    config = {"model_type": "other", "rope_parameters": GEMMA3}
    assert build_legacy_keys(config) == {}
    same = {name: {**p, "rope_theta": 7.0} for name, p in GEMMA3.items()}
    assert build_legacy_keys({**config, "rope_parameters": same}) == {"rope_theta": 7.0}
    assert build_legacy_keys({"model_type": "gpt2"}) == {}


def test_the_experts_of_qwen3_have_both_names(tmp_path: Path) -> None:
    """mlx-lm knows the earlier one alone, which published configs have."""
    CONFIG_MAPPING["qwen3_moe"](num_experts=6).save_pretrained(tmp_path)
    write_legacy_config_keys(tmp_path)
    config = config_of(tmp_path)
    assert config["num_experts"] == config["num_local_experts"] == 6
    assert CONFIG_MAPPING["qwen3_moe"].from_pretrained(tmp_path).num_experts == 6


def test_keys_that_would_mean_something_else_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, "Llama 3")
    before = (tmp_path / "config.json").read_text()
    wrong = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    monkeypatch.setattr(legacy_config_keys, "build_legacy_keys", lambda config: wrong)
    with pytest.warns(TunesmithWarning, match="would have a different meaning"):
        write_legacy_config_keys(tmp_path)
    assert (tmp_path / "config.json").read_text() == before
