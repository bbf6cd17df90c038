"""Graphs of trained models, in OpenVINO GenAI: correct ones pass, and each fault is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunesmith.options import from_table
from tunesmith_openvino.exporter import GRAPH
from tunesmith_openvino.offer import OPENVINO, OpenvinoOptions
from tunesmith_torch.export.export_run import Export, TrainedModel
from tunesmith_torch.testing.exports import (
    check_answers_end,
    check_damage_is_found,
    check_export,
    damage_export,
    make_json_damage,
    run_readme,
    train_tiny,
)
from tunesmith_torch.testing.tiny_model import save_tiny_model

README = Path(__file__).parents[1] / "README.md"


def as_export(quantize: str = "f32", damage: Callable[[Path], None] | None = None) -> Export:
    options = from_table(OpenvinoOptions, {"quantize": quantize})
    return damage_export(Export.from_offer(OPENVINO, options), damage)


def test_a_trained_adapter_passes(trained: TrainedModel, tmp_path: Path) -> None:
    sizes = {}
    for quantize in ("f32", "f16"):
        out = tmp_path / quantize
        certificate = check_export(trained, as_export(quantize), out)
        assert certificate["checks"]["added tokens"] == "3 tokens"
        sizes[quantize] = (out / "openvino_model.bin").stat().st_size
    assert sizes["f16"] < 0.6 * sizes["f32"]


@pytest.mark.parametrize(
    ("family", "key_heads"),
    [("qwen3", 2), ("llama", 4), ("llama", 2), ("llama", 1), ("qwen3_moe", 2)],
)
def test_other_architectures_pass_and_answer(family: str, key_heads: int, tmp_path: Path) -> None:
    changes = {"num_key_value_heads": key_heads}
    model = save_tiny_model(tmp_path / "model", family, changes=changes)
    trained = train_tiny("lora", model, tmp_path / "run", epochs=2.0)
    export = as_export()
    check_export(trained, export, tmp_path / "out")
    with export.exporter.open(tmp_path / "out") as engine:
        (answer,) = engine.generate([trained.test[0].prompt], 4)  # type: ignore[union-attr]
    assert answer.tokens > 0


def test_a_full_model_ends_its_answers_and_the_readme_asks_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    check_answers_end(tiny_model, as_export(), tmp_path, "runs/tickets/export/openvino")
    assert run_readme(README, tmp_path) == "one two three"


def truncate(out: Path) -> None:
    weights = out / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-200])


def change_weights(out: Path) -> None:
    """Make a quarter of the weights larger by a tenth."""
    weights = out / "openvino_model.bin"
    content = bytearray(weights.read_bytes())
    values = np.frombuffer(content, np.float32)[len(content) // 8 :][: len(content) // 16]
    values *= np.where(np.abs(values) < 1, np.float32(1.1), np.float32(1))
    weights.write_bytes(content)


def replace(pattern: str, old: str, new: str) -> Callable[[Path], None]:
    """Return the damage that replaces a text in files of the tokenizer."""

    def damage(out: Path) -> None:
        for file in out.glob(pattern):
            content = file.read_bytes()
            assert old.encode() in content
            file.write_bytes(content.replace(old.encode(), new.encode()))

    return damage


TOKENIZER = "openvino_tokenizer.xml"
"""OpenVINO GenAI takes the chat template from here, not from the file of transformers."""
FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "template": ("rendered prompt", replace(TOKENIZER, "assistant&#10;", "assistant")),
    "system prompt": ("rendered system prompt", replace(TOKENIZER, "message['role']", "'user'")),
    "end": (
        "end tokens",
        make_json_damage("generation_config.json", lambda c: c.update(eos_token_id=0)),
    ),
    "lost token": (
        "added tokens",
        replace("openvino_*tokenizer.bin", "<|im_start|>", "<|im_stark|>"),
    ),
    "truncated tensor": ("files", truncate),
    "missing graph": ("files", lambda out: (out / GRAPH).unlink()),
    "weights": ("log-probabilities", change_weights),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_files_is_found(fault: str, trained: TrainedModel, tmp_path: Path) -> None:
    name, damage = FAULTS[fault]
    check_damage_is_found(trained, as_export(damage=damage), tmp_path, name)
