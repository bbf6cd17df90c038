"""Graphs of trained models, in ONNX Runtime: correct ones pass, and each fault is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_model import save_small_model

from tunesmith.errors import EnvironmentProblem, GateError
from tunesmith.options import from_table
from tunesmith_onnx.exporter import CONFIG, GRAPH, OnnxExporter
from tunesmith_onnx.offer import ONNX, OnnxOptions
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.export.export_run import Export, TrainedModel, export_run
from tunesmith_torch.testing.exports import (
    LEARNING_FULL,
    LEARNING_LORA,
    damage_export,
    edit_json,
    edit_template,
    train_for_export,
)


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    options = from_table(LoraOptions, LEARNING_LORA)
    return train_for_export(options, tiny_folder, tmp_path_factory.mktemp("lora"))


def as_export(quantize: str = "f32", damage: Callable[[Path], None] | None = None) -> Export:
    options = from_table(OnnxOptions, {"quantize": quantize})
    return damage_export(Export.from_offer(ONNX, options), damage)


@pytest.mark.parametrize("quantize", ["f32", "int8", "int4"])
def test_a_trained_adapter_passes(trained: TrainedModel, tmp_path: Path, quantize: str) -> None:
    certificate = export_run(trained, as_export(quantize), tmp_path / "out")
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {GRAPH, CONFIG, "tokenizer.json", "config.json", "export.json"} <= files
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == certificate
    if quantize == "f32":
        assert certificate["max_logprob_difference_nats"] < 1e-4
    else:
        assert 0 < certificate["mean_kl_nats"] < 0.5


def test_another_architecture_passes(tmp_path: Path) -> None:
    model = save_small_model(tmp_path / "model", "qwen3")
    options = from_table(LoraOptions, {**LEARNING_LORA, "epochs": 2.0})
    trained = train_for_export(options, model, tmp_path / "run")
    certificate = export_run(trained, as_export(), tmp_path / "out")
    assert certificate["max_logprob_difference_nats"] < 1e-4


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gpt2", {}, "the builder of ONNX Runtime GenAI failed"),
        ("llama", {"head_dim": 8}, "heads of a size of 8, not a multiple of 16"),
    ],
)
def test_a_model_that_onnx_runtime_does_not_take_is_refused(
    family: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    model = save_small_model(tmp_path / "model", family, **changes)
    with pytest.raises(EnvironmentProblem, match=reason):
        OnnxExporter(OnnxOptions()).export(model, tmp_path)


def test_a_model_that_has_learned_to_end_its_answers_ends_them(
    tiny_folder: Path, tmp_path: Path
) -> None:
    options = from_table(FullOptions, LEARNING_FULL)
    trained = train_for_export(options, tiny_folder, tmp_path / "run")
    certificate = export_run(trained, as_export(), tmp_path / "out")
    assert certificate["checks"]["stop"] == "4 of 4 answers end alike"
    assert certificate["not_verified"] == []


def truncate(out: Path) -> None:
    (weights,) = out.glob("*.data")
    weights.write_bytes(weights.read_bytes()[:-200])


def change_weights(out: Path) -> None:
    """Change the sign of bytes in the middle, which are those of a matrix."""
    (weights,) = out.glob("*.data")
    content = bytearray(weights.read_bytes())
    half = len(content) // 2
    for at in range(half // 4 * 4 + 3, half + 4096, 4):
        content[at] ^= 0x80
    weights.write_bytes(content)


FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "template": ("rendered prompt", edit_template("'<|im_end|>' + '\n'", "'<|im_end|>'")),
    "end": ("end tokens", edit_json(CONFIG, lambda c: c["model"].update(eos_token_id=0))),
    "lost token": ("added tokens", edit_json("tokenizer.json", lambda c: c["added_tokens"].pop())),
    "truncated tensor": ("files", truncate),
    "weights": ("log-probabilities", change_weights),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_files_is_found(fault: str, trained: TrainedModel, tmp_path: Path) -> None:
    name, damage = FAULTS[fault]
    with pytest.raises(GateError, match=f"export, {name}:"):
        export_run(trained, as_export(damage=damage), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
