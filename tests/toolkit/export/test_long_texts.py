"""Differences in texts longer than the rows only are found, or reported as not verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export_cases import as_export, train_tiny
from safetensors.torch import load_file, save_file
from tests.benchmarks.export_faults import edit

from tunesmith.errors import GateError
from tunesmith_plugins.exporters.safetensors.exporter import SafetensorsExporter
from tunesmith_plugins.exporters.safetensors.offer import SafetensorsOptions
from tunesmith_torch.export.export_run import TrainedModel, export_run
from tunesmith_torch.export.reference import MAX_LONG_TOKENS
from tunesmith_torch.testing.exports import damage_exporter
from tunesmith_torch.testing.tiny_model import save_tiny_model

EXPORTER = SafetensorsExporter(SafetensorsOptions(dtype="float32"))
WINDOW = 96
"""More tokens than a row has."""


def train(folder: Path, family: str, **changes: Any) -> TrainedModel:
    model = save_tiny_model(folder / "model", family, changes=changes)
    tensors = load_file(model / "model.safetensors")
    for name, weight in tensors.items():  # attention that matters, as in a trained model
        if "self_attn" in name:
            weight *= 10
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return train_tiny(folder / "run", model, epochs=2.0)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train(tmp_path_factory.mktemp("windowed"), "mistral", sliding_window=WINDOW)


def test_a_text_longer_than_the_window_is_compared(windowed: TrainedModel, tmp_path: Path) -> None:
    certificate = export_run(windowed, as_export(EXPORTER), tmp_path / "out")
    assert certificate["checks"]["long texts"].endswith(f", in texts of {WINDOW + 64} tokens")
    assert "long texts" not in certificate["not_verified"]


@pytest.mark.parametrize("other", [None, WINDOW // 2])
def test_another_window_is_found(windowed: TrainedModel, tmp_path: Path, other: int | None) -> None:
    damaged = damage_exporter(EXPORTER, lambda out: edit(out / "config.json", sliding_window=other))
    name = "long texts" if other is None else "(long texts|log-probabilities)"
    with pytest.raises(GateError, match=f"export, {name}: the largest difference"):
        export_run(windowed, as_export(damaged), tmp_path / "out")


def test_what_may_be_rounding_is_not_verified(windowed: TrainedModel, tmp_path: Path) -> None:
    whole = export_run(windowed, as_export(EXPORTER, tolerance=None), tmp_path / "whole")
    assert "long texts" not in whole["not_verified"]
    damaged = damage_exporter(
        EXPORTER, lambda out: edit(out / "config.json", sliding_window=WINDOW + 1)
    )
    certificate = export_run(windowed, as_export(damaged, tolerance=None), tmp_path / "out")
    assert "long texts" in certificate["not_verified"]
    assert "may compute long texts differently" in certificate["checks"]["long texts"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sliding_window": MAX_LONG_TOKENS}, f"sliding attention over {MAX_LONG_TOKENS} tokens"),
        (
            {
                "sliding_window": None,
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            },
            "RoPE scaling (dynamic) beyond 2048 tokens",
        ),
    ],
)
def test_what_is_too_long_to_compare_is_not_verified(
    changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    trained = train(tmp_path, "mistral", max_position_embeddings=2048, **changes)
    certificate = export_run(trained, as_export(EXPORTER), tmp_path / "out")
    assert "long texts" in certificate["not_verified"]
    assert f"the model uses {what}, and only short texts" in certificate["checks"]["long texts"]
