"""Folders of trained models, in mlx-lm: correct ones pass, and each fault is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from small_model import save_small_model

from tunesmith.errors import EnvironmentProblem, GateError
from tunesmith.options import from_table
from tunesmith_mlx.exporter import MlxExporter
from tunesmith_mlx.offer import MLX
from tunesmith_mlx.options import MlxOptions
from tunesmith_torch.export.export_run import Export, TrainedModel, export_run
from tunesmith_torch.testing.exports import (
    check_answers_end,
    check_damage_is_found,
    check_export,
    damage_export,
    make_json_damage,
    make_template_damage,
    run_readme,
    train_tiny,
)

README = Path(__file__).parents[1] / "README.md"


def as_export(quantize: str = "f32", damage: Callable[[Path], None] | None = None) -> Export:
    # The rows of a tiny model are no longer than the smallest group.
    options = from_table(MlxOptions, {"quantize": quantize, "group_size": 32})
    return damage_export(Export.from_offer(MLX, options), damage)


@pytest.mark.parametrize("quantize", ["f32", "f16", "bf16", "int8", "int4"])
def test_a_trained_adapter_passes(trained: TrainedModel, tmp_path: Path, quantize: str) -> None:
    out = tmp_path / "out"
    check_export(trained, as_export(quantize), out)
    config = json.loads((out / "config.json").read_text())
    name = {"f32": "float32", "f16": "float16"}.get(quantize, "bfloat16")
    tensors = load_file(out / "model.safetensors")
    assert config["dtype"] == name
    assert str(tensors["model.norm.weight"].dtype) == f"torch.{name}"
    if quantize.startswith("int"):
        bits = int(quantize[3:])
        assert config["quantization"]["bits"] == bits
        weight = tensors["model.layers.0.mlp.up_proj.weight"]
        assert weight.shape == (64, 32 * bits // 32)


def test_a_matrix_with_other_rows_is_not_quantized(tiny_model: Path, tmp_path: Path) -> None:
    MlxExporter(from_table(MlxOptions, {"quantize": "int8"})).export(tiny_model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    quantized = {name for name in tensors if name.endswith(".scales")}
    assert quantized == {f"model.layers.{n}.mlp.down_proj.scales" for n in (0, 1)}  # rows of 64


def test_another_architecture_passes(tmp_path: Path) -> None:
    model = save_small_model(tmp_path / "model", "qwen3")
    trained = train_tiny("lora", model, tmp_path / "run", epochs=2.0)
    check_export(trained, as_export(), tmp_path / "out")


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gpt2", r"mlx-lm cannot load this model: ModelArgs\S+ missing 1 .* 'n_ctx'"),
        ("opt", "mlx-lm cannot load this model: Model type opt not supported"),
    ],
)
def test_a_model_that_mlx_does_not_take_is_refused(
    family: str, reason: str, tmp_path: Path
) -> None:
    model = save_small_model(tmp_path / "model", family)
    with pytest.raises(EnvironmentProblem, match=reason):
        MlxExporter(MlxOptions()).export(model, tmp_path)


def test_a_full_model_ends_its_answers_and_the_readme_asks_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    check_answers_end(tiny_model, as_export(), tmp_path, "runs/tickets/export/mlx")
    assert run_readme(README, tmp_path) == "one two three"


def truncate(out: Path) -> None:
    weights = out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-200])


def change_weights(out: Path) -> None:
    tensors = load_file(out / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1.05
    save_file(tensors, out / "model.safetensors", metadata={"format": "mlx"})


def lose_rope(out: Path) -> None:
    """Leave the parameters of transformers 5 only, which mlx-lm does not read."""
    make_json_damage("config.json", lambda config: config.pop("rope_theta"))(out)


FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "rope": (
        "rope",
        make_json_damage("config.json", lambda config: config.update(rope_theta=5000.0)),
    ),
    "template": ("rendered prompt", make_template_damage("'<|im_end|>' + '\n'", "'<|im_end|>'")),
    "system prompt": ("rendered system prompt", make_template_damage("message['role']", "'user'")),
    "end": (
        "end tokens",
        make_json_damage("generation_config.json", lambda c: c.update(eos_token_id=0)),
    ),
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


def test_a_config_without_the_key_that_mlx_reads_is_found(tmp_path: Path) -> None:
    """mlx-lm computes with a theta of 10000 then, without an error."""
    parameters = {"rope_type": "default", "rope_theta": 100.0}
    model = save_small_model(tmp_path / "model", rope_parameters=parameters)
    trained = train_tiny("lora", model, tmp_path / "run", epochs=2.0)
    with pytest.raises(GateError, match="export, log-probabilities:"):
        export_run(trained, as_export(damage=lose_rope), tmp_path / "out")
