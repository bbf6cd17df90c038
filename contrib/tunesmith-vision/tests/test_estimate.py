"""Memory predicted before any weight or pixel is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training import make_table, options, rows, split_folder, tokenize

from tunesmith.estimates import EstimateRequest
from tunesmith.records import Chat
from tunesmith_vision.estimate import estimate
from tunesmith_vision.images import replace_images


def request(folder: Path, **fields: Any) -> EstimateRequest:
    given: dict[str, Any] = {
        "config": json.loads((folder / "config.json").read_text()), "tokenizer": folder,
        "train": rows(), "test": (), "assumed": None, "device": "cpu",
    }  # fmt: skip
    return EstimateRequest(**{**given, **fields})


def test_rows_are_as_long_as_in_training() -> None:
    folder = split_folder()
    _, *better = estimate(options(), request(folder))
    examples = tokenize(rows(), make_table(folder), model=folder).examples
    longest = max(map(len, examples))
    assert [found.longest_row for found in better] == [pytest.approx(longest, abs=4)] * 2
    assert [found.method for found in better] == ["analytic", "traced"]


def test_images_add_their_tower_features_and_projector() -> None:
    folder = split_folder()
    *_, found = estimate(options(), request(folder))
    table = make_table(folder)
    tower = table.tower.module
    parts = found.memory["train"].components
    assert parts["tower"] == 4 * sum(p.numel() for p in tower.parameters())
    assert parts["image features"] == 4 * 4 * 16 * table.tower.width, "four images of 16 tokens"
    projector = table.tower.build_projector(0, 1.0, 0)
    assert parts["projector"] == 4 * sum(p.numel() for p in projector.parameters())
    assert parts["projector in training"] == 4 * parts["projector"]
    *_, kept = estimate(options(train_projector=False), request(folder))
    assert "projector in training" not in kept.memory["train"].components
    *_, on_gpu = estimate(options(), request(folder, device="cuda"))
    assert "tower" not in on_gpu.memory["train"].components


def test_no_pixel_and_no_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = split_folder()
    monkeypatch.delattr("tunesmith_vision.features.open_picture")
    monkeypatch.delattr("tunesmith_vision.vlm.load_file")
    lost: list[Any] = [
        replace(r, messages=replace_images(r.messages, lambda i: replace(i, path="/nowhere")))
        for r in rows()
        if isinstance(r, Chat)
    ]
    assert len([*estimate(options(), request(folder, train=lost))]) == 3


def test_nothing_is_predicted_for_a_tower_in_training() -> None:
    assert not [*estimate(options(train_tower=True), request(split_folder()))]
