"""Graphs of trained models, in OpenVINO GenAI: correct ones pass, and each fault is found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunesmith.errors import GateError
from tunesmith.options import from_table
from tunesmith_openvino.exporter import GRAPH
from tunesmith_openvino.offer import OPENVINO, OpenvinoOptions
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.export.export_run import Export, TrainedModel, export_run
from tunesmith_torch.testing.exports import (
    LEARNING_FULL,
    LEARNING_LORA,
    damage_export,
    edit_json,
    train_for_export,
)
from tunesmith_torch.testing.tiny_model import save_tiny_model

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    options = from_table(LoraOptions, LEARNING_LORA)
    return train_for_export(options, tiny_model, tmp_path_factory.mktemp("lora"))


def as_export(quantize: str = "f32", damage: Callable[[Path], None] | None = None) -> Export:
    options = from_table(OpenvinoOptions, {"quantize": quantize})
    return damage_export(Export.from_offer(OPENVINO, options), damage)


def test_a_trained_adapter_passes(trained: TrainedModel, tmp_path: Path) -> None:
    sizes = {}
    for quantize, limit in (("f32", 1e-4), ("f16", 0.05)):
        out = tmp_path / quantize
        certificate = export_run(trained, as_export(quantize), out)
        assert json.loads((out / "export.json").read_text()) == certificate
        assert certificate["max_logprob_difference_nats"] < limit
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
    options = from_table(LoraOptions, {**LEARNING_LORA, "epochs": 2.0})
    trained = train_for_export(options, model, tmp_path / "run")
    export = as_export()
    certificate = export_run(trained, export, tmp_path / "out")
    assert certificate["max_logprob_difference_nats"] < 1e-4
    with export.exporter.open(tmp_path / "out") as engine:
        (answer,) = engine.generate([trained.test[0].prompt], 4)  # type: ignore[union-attr]
    assert answer.tokens > 0


def test_a_full_model_ends_its_answers_and_the_readme_asks_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    options = from_table(FullOptions, LEARNING_FULL)
    trained = train_for_export(options, tiny_model, tmp_path / "run")
    out = tmp_path / "runs" / "tickets" / "export" / "openvino"
    out.parent.mkdir(parents=True)
    certificate = export_run(trained, as_export(), out)
    assert certificate["checks"]["stop"] == "4 of 4 answers end alike"
    assert certificate["not_verified"] == []
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "one two three", done.stderr[-2000:]


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
    "end": ("end tokens", edit_json("generation_config.json", lambda c: c.update(eos_token_id=0))),
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
    with pytest.raises(GateError, match=f"export, {name}:"):
        export_run(trained, as_export(damage=damage), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
