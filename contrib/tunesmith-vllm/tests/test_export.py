"""Exports for vLLM: correct ones pass, faults are found, and what was not verified is reported.

vLLM itself is asked where the variable VLLM_PYTHON names its Python; elsewhere a stand-in.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tunesmith.errors import UsageError
from tunesmith.options import from_table
from tunesmith_torch.export.contract import NotVerifiedError, ServedExporter
from tunesmith_torch.export.export_run import Export, TrainedModel, export_run
from tunesmith_torch.testing.exports import (
    check_answers_end,
    check_damage_is_found,
    check_export,
    damage_export,
    make_json_damage,
    make_template_damage,
    train_tiny,
)
from tunesmith_vllm import exporter
from tunesmith_vllm.exporter import check_rope_forms
from tunesmith_vllm.offer import VLLM
from tunesmith_vllm.options import VllmOptions


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this environment have no vLLM."""
    monkeypatch.setattr(exporter, "find_python", lambda wanted: None)


def as_export(damage: Callable[[Path], None] | None = None, **options: Any) -> Export:
    table = from_table(VllmOptions, {"dtype": "float32", **options})
    return damage_export(Export.from_offer(VLLM, table), damage)


@pytest.mark.parametrize("adapter_only", [False, True])
def test_a_trained_adapter_is_verified_in_vllm(
    trained: TrainedModel, tmp_path: Path, python: str, adapter_only: bool
) -> None:
    export = as_export(python=python, adapter_only=adapter_only)
    certificate = export_run(trained, export, tmp_path / "out")
    assert certificate["checks"]["vLLM"] == "the checks below ran in vLLM, in float32"
    assert "vLLM" not in certificate["not_verified"]
    assert certificate["max_logprob_difference_nats"] < 1e-4
    assert ("merge" in certificate["checks"]) is not adapter_only


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_weights_pass(
    dtype: str, trained: TrainedModel, tmp_path: Path, python: str
) -> None:
    check_export(trained, as_export(python=python, dtype=dtype), tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{dtype}"}


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("adapter_only", [False, True])
def test_without_vllm_nothing_is_called_verified(
    trained: TrainedModel, tmp_path: Path, adapter_only: bool
) -> None:
    certificate = export_run(trained, as_export(adapter_only=adapter_only), tmp_path / "out")
    text = certificate["checks"]["vLLM"]
    assert text.startswith(
        "not verified: vLLM is not installed in this environment, so the checks below ran in"
    )
    assert "vLLM" in certificate["not_verified"]
    assert certificate["max_logprob_difference_nats"] < 1e-4
    stored = json.loads((tmp_path / "out" / "export.json").read_text())
    assert stored == certificate
    card = (tmp_path / "out" / "README.md").read_text()
    assert text in card and certificate["serve"] in card
    assert str(tmp_path) not in card


@pytest.mark.usefixtures("missing")
def test_the_command_serves_the_folder(trained: TrainedModel, tmp_path: Path) -> None:
    export, out = as_export(dtype="bfloat16"), tmp_path / "my out"
    certificate = export_run(trained, export, out)
    greedy = ["--override-generation-config", '{"temperature": 0}']
    assert isinstance(export.exporter, ServedExporter)
    words = shlex.split(export.exporter.serve_command(out))
    assert words == ["vllm", "serve", str(out), "--dtype", "bfloat16", *greedy]
    assert shlex.split(certificate["serve"]) == [*words[:2], ".", *words[3:]]


@pytest.mark.usefixtures("missing")
def test_an_adapter_is_served_beside_its_base_model(trained: TrainedModel, tmp_path: Path) -> None:
    export, out = as_export(adapter_only=True), tmp_path / "out"
    certificate = export_run(trained, export, out)
    names = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= names
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json"} <= names
    assert not {"config.json", "model.safetensors"} & names
    assert isinstance(export.exporter, ServedExporter)
    command = export.exporter.serve_command(out)
    assert command.startswith(f"vllm serve {trained.base} --dtype float32")
    assert f"--tokenizer {out} --generation-config {out} --enable-lora" in command
    assert command.endswith(f"--max-lora-rank 8 --lora-modules tuned={out}/adapter")
    assert "vllm serve BASE" in certificate["serve"] and str(tmp_path) not in certificate["serve"]


def test_a_run_without_an_adapter_has_none_to_export(tiny_model: Path, tmp_path: Path) -> None:
    trained = train_tiny("full", tiny_model, tmp_path / "run", epochs=1.0)
    with pytest.raises(UsageError, match="vllm: the run trained all weights"):
        export_run(trained, as_export(adapter_only=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_vllm_lacks_is_refused_before_anything_is_read(
    tiny_model: Path, tmp_path: Path
) -> None:
    adapter = {"rank": 4, "use_dora": True}
    trained = train_tiny("lora", tiny_model, tmp_path / "run", epochs=1.0, adapter=adapter)
    steps: list[str] = []
    with pytest.raises(UsageError, match="vLLM cannot serve this adapter: it sets use_dora"):
        export_run(trained, as_export(adapter_only=True), tmp_path / "out", announce=steps.append)
    assert steps == []


def test_a_full_model_ends_its_answers(tiny_model: Path, tmp_path: Path, python: str) -> None:
    check_answers_end(tiny_model, as_export(python=python), tmp_path)


def truncate(out: Path) -> None:
    weights = next(out.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-200])


def change_adapter(out: Path) -> None:
    file = out / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * 1.05 for name, tensor in load_file(file).items()}, file)


def change_weights(out: Path) -> None:
    tensors = load_file(out / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1.05
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def change_rope(config: dict[str, Any]) -> None:
    config["rope_parameters"]["rope_theta"] = 5000.0


FAULTS: dict[str, tuple[bool, str, Callable[[Path], None]]] = {
    "rope": (False, "rope", make_json_damage("config.json", lambda c: c.update(rope_theta=5000.0))),
    "rope of one form": (False, "rope, both forms", make_json_damage("config.json", change_rope)),
    "template": (
        False, "rendered prompt",
        make_template_damage("'<|im_end|>' + '\n'", "'<|im_end|>'")),
    "end": (
        False, "end tokens",
        make_json_damage("generation_config.json", lambda c: c.update(eos_token_id=0))
    ),
    "lost token": (
        False, "added tokens", make_json_damage("tokenizer.json", lambda c: c["added_tokens"].pop())
    ),
    "truncated": (False, "files", truncate),
    "weights": (False, "log-probabilities", change_weights),
    "truncated adapter": (True, "files", truncate),
    "scale": (
        True, "log-probabilities",
        make_json_damage("adapter/adapter_config.json", lambda c: c.update(lora_alpha=4)),
    ),
    "adapter": (True, "log-probabilities", change_adapter),
    "template of an adapter": (
        True, "rendered prompt", make_template_damage("'<|im_end|>' + '\n'", "'<|im_end|>'")
    ),
    "end of an adapter": (
        True, "end tokens",
        make_json_damage("generation_config.json", lambda c: c.update(eos_token_id=0))
    ),
}  # fmt: skip


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_files_is_found(fault: str, trained: TrainedModel, tmp_path: Path) -> None:
    adapter_only, name, damage = FAULTS[fault]
    export = as_export(damage, adapter_only=adapter_only)
    check_damage_is_found(trained, export, tmp_path, name)


SCALED = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, "not used"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 1e4}, "theta 10000"),
        (
            {"rope_parameters": SCALED, "rope_theta": 5e5, "rope_scaling": {"type": "llama3"}},
            "theta 500000, llama3",
        ),
        ({"rope_parameters": {"local": {"rope_theta": 1e4}}}, "one per kind of layer"),
        (
            {"text_config": {"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 1e4}},
            "theta 10000",
        ),
    ],
)
def test_both_forms_of_the_rope_agree(config: dict[str, Any], text: str) -> None:
    assert check_rope_forms(config, is_asked=False) == text


def test_a_rope_in_one_form_is_not_verified() -> None:
    config = {"rope_parameters": {"rope_theta": 1e4}}
    with pytest.raises(NotVerifiedError, match="only rope_parameters"):
        check_rope_forms(config, is_asked=False)
    assert check_rope_forms(config, is_asked=True).endswith(
        "the checks below show whether this version reads the config"
    )


def test_scaled_positions_that_are_lost_in_one_form_are_found() -> None:
    with pytest.raises(
        AssertionError, match="rope_scaling is None, but the type in rope_parameters is llama3"
    ):
        check_rope_forms({"rope_parameters": SCALED, "rope_theta": 5e5}, is_asked=True)
