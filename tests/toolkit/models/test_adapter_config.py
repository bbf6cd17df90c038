"""Configs of adapters that would make PEFT compute or allocate without end are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import AdaLoraConfig, IA3Config, LoraConfig

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_torch.models.adapter_config import can_load_on_meta, check_adapter_config
from tunesmith_torch.untrusted import pattern_process

NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]


def check(folder: Path, **config: Any) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, **config}))
    check_adapter_config(folder, NAMES, 64)


def test_ordinary_configs_pass(tmp_path: Path) -> None:
    check(tmp_path)
    check(tmp_path, target_modules=["q_proj"], r=64, rank_pattern={"k_proj": 64})
    check(tmp_path, target_modules=r"model\.layers\.\d+\.self_attn\.(q|k|v)_proj")
    check(tmp_path, layer_replication=[[0, 4], [2, 5]], init_lora_weights="pissa_niter_16")
    check(tmp_path, peft_type="IA3", trainable_token_indices=[128_000])


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"r": 65}, "r"),
        ({"rank_pattern": {"q_proj": 65}}, "r"),
        ({"num_virtual_tokens": 100_001}, "num_virtual_tokens"),
        ({"layer_replication": [[0, 1_001]]}, "layer_replication"),
        ({"init_lora_weights": "pissa_niter_101"}, "init_lora_weights"),
        ({"nested": [{"x": -10_000_001}]}, "a number"),
    ],
)
def test_a_size_that_is_implausible_is_refused(
    tmp_path: Path, config: dict[str, Any], key: str
) -> None:
    with pytest.raises(IntegrityError, match=rf"adapter_config\.json: {key}: must be at most"):
        check(tmp_path, **config)


@pytest.mark.parametrize("kind", ["NOPE", 5, None, ["LORA"]])
def test_an_unknown_kind_is_refused(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(EnvironmentProblem, match="peft_type"):
        check(tmp_path, peft_type=kind)


def test_an_expression_that_backtracks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="regular expression"):
        check(tmp_path, target_modules="(([a-z_.0-9]+)+)+!")


def test_expressions_are_matched_in_the_forms_of_peft(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that are only half an expression; what is none is left to PEFT."""
    pattern_process.main(["q_proj", "(((", r"layers\.\d+"], NAMES)
    assert capsys.readouterr() == ("", "")


def test_what_can_be_loaded_without_memory() -> None:
    assert can_load_on_meta(LoraConfig(r=2))
    assert can_load_on_meta(LoraConfig(r=2, init_lora_weights="gaussian"))
    assert can_load_on_meta(IA3Config())
    for options in (
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
        {"init_lora_weights": "pissa"},
    ):
        assert not can_load_on_meta(LoraConfig(r=2, **options))
    assert not can_load_on_meta(AdaLoraConfig(total_step=10))
