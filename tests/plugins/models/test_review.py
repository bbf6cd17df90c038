"""The refusal of base models that do not generate text from left to right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tunesmith_cli.app import app
from tunesmith_plugins.models.huggingface.review import causal_model_types, find_problem
from tunesmith_torch.testing.tiny_model import save_tiny_model


def test_the_types_are_those_of_transformers() -> None:
    assert causal_model_types() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "t5"}, "no causal language model of type 't5'"),
        ({"model_type": "bert"}, "without `is_decoder`"),
        ({"model_type": "cpmant"}, "both directions"),
        ({"model_type": "reformer"}, "random hashes"),
        ({"model_type": "xlm", "causal": False}, "without `causal`"),
        ({"model_type": "falcon", "alibi": True}, "with `alibi`"),
    ],
)
def test_models_that_cannot_be_trained_are_refused(config: dict[str, Any], reason: str) -> None:
    assert reason in find_problem(config)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": 3},
        {"model_type": "llama"},
        {"model_type": "bert", "is_decoder": True},
        {"model_type": "falcon", "alibi": False},
        {"model_type": "qwen3_5"},
    ],
)
def test_other_models_are_accepted(config: dict[str, Any]) -> None:
    assert find_problem(config) == ""


def test_check_refuses_with_a_reason_and_a_remedy(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"llama"', '"bert"'))
    rows = "".join(f'{{"prompt": "{n}?", "completion": "b"}}\n' for n in range(10))
    (tmp_path / "rows.jsonl").write_text(rows)
    table = {
        "model": {"base": str(model)},
        "data": {"use": "jsonl", "train": str(tmp_path / "rows.jsonl")},
        "technique": {"use": "lora"},
    }
    (tmp_path / "run.toml").write_text(tomli_w.dumps(table))
    result = CliRunner().invoke(app, ["check", str(tmp_path / "run.toml")])
    assert result.exit_code != 0
    text = " ".join(result.output.split())
    assert "bert without `is_decoder` in its config attends in both directions" in text
    assert "choose a causal language model" in text
