"""Graphs of trained models, in ONNX Runtime: correct ones pass, and each fault is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_model import save_small_model

from tunesmith.errors import EnvironmentProblem
from tunesmith.options import from_table
from tunesmith_onnx.exporter import CONFIG, GRAPH, OnnxExporter
from tunesmith_onnx.offer import ONNX, OnnxOptions
from tunesmith_torch.export.export_run import Export, TrainedModel
from tunesmith_torch.testing.exports import (
    check_answers_end,
    check_damage_is_found,
    check_export,
    damage_export,
    make_json_damage,
    make_template_damage,
    train_tiny,
)


def as_export(quantize: str = "f32", damage: Callable[[Path], None] | None = None) -> Export:
    options = from_table(OnnxOptions, {"quantize": quantize})
    return damage_export(Export.from_offer(ONNX, options), damage)


@pytest.mark.parametrize("quantize", ["f32", "int8", "int4"])
def test_a_trained_adapter_passes(trained: TrainedModel, tmp_path: Path, quantize: str) -> None:
    check_export(trained, as_export(quantize), tmp_path / "out")
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {GRAPH, CONFIG, "tokenizer.json", "config.json", "export.json"} <= files


def test_another_architecture_passes(tmp_path: Path) -> None:
    model = save_small_model(tmp_path / "model", "qwen3")
    trained = train_tiny("lora", model, tmp_path / "run", epochs=2.0)
    check_export(trained, as_export(), tmp_path / "out")


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gpt2", {}, "ONNX Runtime GenAI's builder failed"),
        ("llama", {"head_dim": 8}, "head size is 8, but ONNX Runtime needs a multiple of 16"),
    ],
)
def test_a_model_that_onnx_runtime_does_not_take_is_refused(
    family: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    model = save_small_model(tmp_path / "model", family, **changes)
    with pytest.raises(EnvironmentProblem, match=reason):
        OnnxExporter(OnnxOptions()).export(model, tmp_path)


def test_a_model_that_has_learned_to_end_its_answers_ends_them(
    tiny_model: Path, tmp_path: Path
) -> None:
    check_answers_end(tiny_model, as_export(), tmp_path)


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
    "template": ("rendered prompt", make_template_damage("'<|im_end|>' + '\n'", "'<|im_end|>'")),
    "end": ("end tokens", make_json_damage(CONFIG, lambda c: c["model"].update(eos_token_id=0))),
    "lost token": (
        "added tokens",
        make_json_damage("tokenizer.json", lambda c: c["added_tokens"].pop()),
    ),
    "truncated tensor": ("files", truncate),
    "weights": ("log-probabilities", change_weights),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_files_is_found(fault: str, trained: TrainedModel, tmp_path: Path) -> None:
    name, damage = FAULTS[fault]
    check_damage_is_found(trained, as_export(damage=damage), tmp_path, name)
