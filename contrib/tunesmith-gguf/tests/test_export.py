"""GGUF files of trained models, in llama.cpp: correct ones pass, and each fault is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from tunesmith.errors import EnvironmentProblem, GateError
from tunesmith.options import from_table
from tunesmith_gguf.exporter import GgufExporter, find_file
from tunesmith_gguf.offer import GGUF
from tunesmith_gguf.options import GgufOptions
from tunesmith_torch.export.export_run import Export, TrainedModel, export_run
from tunesmith_torch.testing.exports import (
    check_answers_end,
    check_damage_is_found,
    check_export,
    damage_export,
    train_tiny,
)
from tunesmith_torch.testing.tiny_model import save_tiny_model


def as_export(quantize: str = "f32", damage: Callable[[Path], None] | None = None) -> Export:
    options = from_table(GgufOptions, {"quantize": quantize, "pre_tokenizer": "smollm"})
    of_file = None if damage is None else lambda out: damage(find_file(out))
    return damage_export(Export.from_offer(GGUF, options), of_file)


@pytest.mark.parametrize("quantize", ["f32", "f16", "q8_0", "q4_k_m"])
def test_a_trained_adapter_passes(trained: TrainedModel, tmp_path: Path, quantize: str) -> None:
    check_export(trained, as_export(quantize), tmp_path / "out")
    assert [f.name for f in (tmp_path / "out").glob("*.gguf")] == [f"model-{quantize}.gguf"]


PHI = {"tie_word_embeddings": False, "num_key_value_heads": 4, "intermediate_size": 128}
"""The converter of Phi-2 takes for granted what all Phi-2 models have."""


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3", {}),
        ("gemma3_text", {"query_pre_attn_scalar": 8}),
        ("phi", PHI),
        ("qwen3_moe", {"norm_topk_prob": True}),
        ("phi3", {}),
        ("gpt_neox", {"tie_word_embeddings": False}),
    ],
)
def test_other_architectures_pass(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", family, changes=changes)
    trained = train_tiny("lora", model, tmp_path / "run", epochs=2.0)
    check_export(trained, as_export(), tmp_path / "out")


@pytest.mark.parametrize(
    ("family", "changes"),
    [("gemma3_text", {"query_pre_attn_scalar": 256}), ("qwen3_moe", {"norm_topk_prob": False})],
)
def test_a_config_that_llama_cpp_ignores_is_found(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = save_tiny_model(tmp_path / "model", family, changes=changes)
    trained = train_tiny("lora", model, tmp_path / "run", epochs=2.0)
    with pytest.raises(GateError, match="export, log-probabilities: the largest difference"):
        export_run(trained, as_export(), tmp_path / "out")


def test_a_full_model_passes(tiny_model: Path, tmp_path: Path) -> None:
    check_answers_end(tiny_model, as_export(), tmp_path)


def test_an_unknown_tokenizer_is_refused_with_what_to_do(
    trained: TrainedModel, tmp_path: Path
) -> None:
    exporter = GgufExporter(GgufOptions(quantize="f32"))
    export = Export(name="gguf", options={}, exporter=exporter, tolerance=1e-4)
    with pytest.raises(EnvironmentProblem, match="does not recognize how") as caught:
        export_run(trained, export, tmp_path / "out")
    assert "pre_tokenizer" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def overwrite(key: str, value: Any) -> Callable[[Path], None]:
    """Overwrite a number in the header of a file, or a text by one of the same length."""

    def damage(file: Path) -> None:
        reader = GGUFReader(file, "r+")
        field = reader.fields[key]
        if isinstance(value, str):
            old = bytes(field.parts[field.data[0]])
            new = value.encode()[: len(old)].ljust(len(old))
            field.parts[field.data[0]][:] = list(new)
        else:
            field.parts[field.data[0]][0] = value
        reader.data.flush()

    return damage


def replace_in_template(old: str, new: str) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = GGUFReader(file).fields["tokenizer.chat_template"].contents()
        assert old in content and len(old.encode()) == len(new.encode())
        overwrite("tokenizer.chat_template", content.replace(old, new))(file)

    return damage


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-200])


def change_tensor(file: Path) -> None:
    reader = GGUFReader(file, "r+")
    (tensor,) = [t for t in reader.tensors if t.name == "blk.1.ffn_down.weight"]
    tensor.data[:] = tensor.data * 1.05
    reader.data.flush()


def lose_token(file: Path) -> None:
    reader = GGUFReader(file, "r+")
    field = reader.fields["tokenizer.ggml.token_type"]
    field.parts[field.data[0]][0] = 1
    reader.data.flush()


ROLE, OTHER_ROLE = "+ message['role'] + ", "+messages[-1].role +"
FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "rope": ("rope", overwrite("llama.rope.freq_base", 5000.0)),
    "template": (
        "rendered prompt",
        replace_in_template("<|im_start|>assistant", "<|im_start|>Assistant"),
    ),
    "system prompt": ("rendered system prompt", replace_in_template(ROLE, OTHER_ROLE)),
    "lost token": ("added tokens", lose_token),
    "truncated tensor": ("files", truncate),
    "weights": ("log-probabilities", change_tensor),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_file_is_found(fault: str, trained: TrainedModel, tmp_path: Path) -> None:
    name, damage = FAULTS[fault]
    check_damage_is_found(trained, as_export(damage=damage), tmp_path, name)


def test_a_wrong_pre_tokenizer_is_found(trained: TrainedModel, tmp_path: Path) -> None:
    exporter = GgufExporter(GgufOptions(quantize="f32", pre_tokenizer="llama-bpe"))
    export = Export(name="gguf", options={}, exporter=exporter, tolerance=1e-4)
    with pytest.raises(GateError, match="export, token ids:"):
        export_run(trained, export, tmp_path / "out")
