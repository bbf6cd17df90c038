"""Adapters that vLLM computes as PEFT does are accepted, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from tunesmith.errors import UsageError
from tunesmith_vllm.adapter import check_adapter, read_max_rank


def save(folder: Path, **changes: Any) -> Path:
    config = LoraConfig(r=8, target_modules=["q_proj"]).to_dict()
    config = {**config, "target_modules": ["q_proj"], **changes}
    text = json.dumps(config, default=str)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"q_proj": 64}, "alpha_pattern": {"q_proj": 4}},
        {"init_lora_weights": False},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
    ],
)
def test_plain_adapters_are_accepted(changes: dict[str, Any], tmp_path: Path) -> None:
    check_adapter(save(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "it sets use_dora"),
        ({"bias": "all"}, "it has bias = all"),
        ({"lora_bias": True}, "it sets lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "it sets modules_to_save"),
        ({"trainable_token_indices": [3]}, "it sets trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "it sets layer_replication"),
        ({"alora_invocation_tokens": [1]}, "it sets alora_invocation_tokens"),
        ({"target_parameters": ["experts.down_proj"]}, "it sets target_parameters"),
        ({"init_lora_weights": "pissa_niter_4"}, r"init_lora_weights = pissa_niter_4\) changes"),
        ({"init_lora_weights": "olora"}, r"init_lora_weights = olora\) changes the base"),
        ({"rank_pattern": {"q_proj": 1024}}, "its rank is 1024, but the maximum is 512"),
        ({"peft_type": "LOHA"}, "its type is LOHA, not LORA"),
    ],
)
def test_what_vllm_lacks_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"vLLM cannot serve this adapter: .*{reason}") as caught:
        check_adapter(save(tmp_path, **changes))
    assert caught.value.hint and "merged" in caught.value.hint


@pytest.mark.parametrize(("rank", "most"), [(1, 1), (8, 8), (9, 16), (200, 256), (512, 512)])
def test_the_largest_rank_is_one_that_vllm_takes(rank: int, most: int, tmp_path: Path) -> None:
    assert read_max_rank(save(tmp_path, r=rank)) == most
