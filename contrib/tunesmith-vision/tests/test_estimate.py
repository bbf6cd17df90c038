"""Memory predicted before any weight or pixel is read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import question, read_images
from tiny_vlm import FAMILIES
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from training import make_table, options, pictures, rows, split_folder, tokenize

from tunesmith.estimates import EstimateRequest
from tunesmith.records import Chat, Message
from tunesmith_vision.estimate import estimate
from tunesmith_vision.images import Image, replace_images
from tunesmith_vision.towers import LiteTower, Tower, blank_picture


def request(folder: Path, **fields: Any) -> EstimateRequest:
    given: dict[str, Any] = {
        "config": json.loads((folder / "config.json").read_text()), "tokenizer": folder,
        "train": rows(), "test": (), "assumed": None, "device": "cpu",
    }  # fmt: skip
    return EstimateRequest(**{**given, **fields})


@st.composite
def conversations(draw: st.DrawFn) -> Chat:
    """Return a conversation with any number of images at any places of its questions."""
    images = [*read_images(pictures()).values()]
    messages = [Message("system", "Be brief.")] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        text = draw(st.text(alphabet="*a ?\n", min_size=1, max_size=8).filter(str.strip))
        shown = draw(st.lists(st.sampled_from(images), min_size=4, max_size=8))
        messages += [
            question(text, *shown, *shown),
            Message("assistant", draw(st.sampled_from("ab"))),
        ]
    return Chat(source="f:1", messages=tuple(messages))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=5, deadline=None)
@given(records=st.lists(conversations(), min_size=1, max_size=4))
def test_rows_have_as_many_tokens_as_in_training(family: str, records: list[Chat]) -> None:
    folder = split_folder(family)
    examples = tokenize(records, make_table(folder), model=folder, limit=2048).examples
    counted = request(folder, train=records)
    exact = [*islice(estimate(options(max_length=2048, epochs=1.0), counted), 1, 2)]
    assert [found.longest_row for found in exact] == [max(map(len, examples))]
    assert exact[0].tokens == sum(map(len, examples))


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


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_of_a_tower_are_those_of_a_forward_pass(family: str) -> None:
    check_activations(make_table(split_folder(family)).tower, Image("", "0", 200, 150))


def test_activations_of_the_small_tower() -> None:
    check_activations(LiteTower(), Image("", "0", 200, 150))


def test_activations_of_layers_that_are_not_measured(tmp_path: Path) -> None:
    """Four layers from two and three, and a large image from a small one."""
    deep = shutil.copytree(split_folder("smolvlm"), tmp_path / "deep")
    file = deep / "vision/config.json"
    config = json.loads(file.read_text())
    config["vision_config"]["num_hidden_layers"] = 4
    file.write_text(json.dumps(config))
    image = Image("", "0", 200, 150)
    few, many = (
        make_table(f).tower.count_activation_bytes(image) for f in (split_folder("smolvlm"), deep)
    )
    measured = [
        make_table(deep).tower._measure(n, make_table(deep).tower.prepare(blank_picture(200, 150)))[
            0
        ]
        for n in (2, 4)
    ]
    assert [few, many] == [pytest.approx(number, rel=0.01) for number in measured]
    wide = replace(image, width=2000, height=1500)
    tokens = [len(make_table(split_folder("qwen2_vl")).tower.layout(i)) for i in (image, wide)]
    small, large = (
        make_table(split_folder("qwen2_vl")).tower.count_activation_bytes(i) for i in (image, wide)
    )
    assert large / small == pytest.approx(tokens[1] / tokens[0], rel=0.1)


def check_activations(tower: Tower, image: Image) -> None:
    expected = tower.count_activation_bytes(image)
    tower.start_training(torch.device("cpu"))
    saved: dict[int, Any] = {}

    def save(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(save, lambda tensor: tensor):
        features = tower.compute(tower.prepare(blank_picture(image.width, image.height)))
    measured = sum(storage.nbytes() for storage in saved.values())
    assert features.requires_grad and expected == pytest.approx(measured, rel=0.1)


def test_a_tower_in_training_is_planned() -> None:
    folder = split_folder()
    *_, frozen = estimate(options(), request(folder))
    *_, found = estimate(options(train_tower=True), request(folder))
    parts, table = found.memory["train"].components, make_table(folder)
    assert parts["tower"] == 4 * sum(p.numel() for p in table.tower.module.parameters())
    assert parts["tower in training"] == 4 * parts["tower"]
    assert "image features" not in parts, "they are computed again in each step"
    assert found.memory["evaluate"].components == frozen.memory["evaluate"].components
    image = read_images(pictures())["red"]
    images = found.micro_batch_tokens / (found.tokens / found.steps / 4) * 13 / len(rows())
    expected = images * table.tower.count_activation_bytes(image)
    assert parts["tower activations"] == pytest.approx(expected, rel=0.01)
    *_, on_gpu = estimate(options(train_tower=True), request(folder, device="cuda"))
    assert on_gpu.memory["train"].components["tower"] == parts["tower"]
    assert "tower" not in on_gpu.memory["evaluate"].components
