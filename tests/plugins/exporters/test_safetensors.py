"""The ``safetensors`` exporter keeps every tensor and file, in the format that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tunesmith.records import Message
from tunesmith_plugins.exporters.safetensors.exporter import SafetensorsExporter
from tunesmith_plugins.exporters.safetensors.offer import SAFETENSORS, SafetensorsOptions
from tunesmith_torch.testing.tiny_model import save_tiny_model

PROMPT = (Message("user", "Hello"),)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tensors_have_the_format(tiny_folder: Path, tmp_path: Path, dtype: str) -> None:
    SafetensorsExporter(SafetensorsOptions(dtype=dtype)).export(tiny_folder, tmp_path)
    before = load_file(tiny_folder / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor.to(getattr(torch, dtype))), name
    assert {file.name for file in tiny_folder.iterdir()} == {f.name for f in tmp_path.iterdir()}


def test_loading_draws_no_bar(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with SafetensorsExporter(SafetensorsOptions(dtype="float32")).open(tiny_folder):
        assert capfd.readouterr().err == ""


def test_a_model_without_a_template_takes_text(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", template=None)
    with SafetensorsExporter(SafetensorsOptions(dtype="float32")).open(folder) as engine:
        assert engine.render(PROMPT) == engine.render("Hello") == "Hello"
        assert len(engine.generate(["Hello"], 3)[0].ids) <= 3


def test_only_rounded_weights_have_no_tolerance() -> None:
    build = SAFETENSORS.config
    assert SAFETENSORS.tolerance(build(dtype="float32")) == 1e-4
    assert SAFETENSORS.tolerance(build(dtype="bfloat16")) is None
