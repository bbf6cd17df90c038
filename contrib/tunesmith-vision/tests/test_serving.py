"""Answers to images that clients send: equal to those of the evaluation, and nothing is kept."""

from __future__ import annotations

import base64
import gc
import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from pictures import COLORS, picture_bytes, question
from tiny_vlm import FAMILIES
from training import image_template, make_table, options, split_folder, temporary, train

from tunesmith.contracts import Generation
from tunesmith.errors import DataError, UsageError
from tunesmith.options import from_table
from tunesmith.plugins import cache_folder
from tunesmith.records import Message, Prompt
from tunesmith_torch.generation.continuous import ContinuousBatch, RunningSequence
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_vision import features
from tunesmith_vision.images import Image, ImageReader, open_picture
from tunesmith_vision.loader import ImageOptions, read_media
from tunesmith_vision.technique import Vision
from tunesmith_vision.towers import FEATURE

LIMIT = 8
SIZES = {"red": (28, 28), "green": (80, 28), "blue": (30, 61), "gray": (40, 32)}


def encode(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def sent(url: str, **table: Any) -> Image:
    return read_media(from_table(ImageOptions, {"train": "rows.jsonl", **table}), url)


def files(folder: Path) -> dict[str, Image]:
    """Return images in files, of several sizes."""
    reader = ImageReader(folder, 10**6, 10**6)
    for name, size in SIZES.items():
        (folder / f"{name}.png").write_bytes(picture_bytes(COLORS[name], size))
    return {name: reader.read(f"{name}.png") for name in SIZES}


def prompts(images: dict[str, Image]) -> list[Prompt]:
    return [
        (question("*Which?", images["red"]),),
        (question("Who?"),),
        (question("* and *: same?", images["green"], images["blue"]),),
        (Message("system", "Be brief."), question("Which?*", images["gray"])),
        (question("*Which?", images["green"]), Message("assistant", "Green."), question("Why?")),
    ]


@cache
def artifact(family: str) -> Path:
    return train(temporary() / "run", model=split_folder(family), max_steps=1, learning_rate=1e-4)


def open_model(family: str) -> TorchTextModel:
    model = Vision(options()).open(split_folder(family), artifact(family), device="cpu")
    assert isinstance(model, TorchTextModel), "the server batches such models continuously"
    return model


def serve(model: TorchTextModel, asked: list[Prompt]) -> list[tuple[int, ...]]:
    """Return the ids of the answers from one running batch, which prompts join one by one."""
    ids = [tuple(model.template.encode_prompt(prompt)) for prompt in asked]
    sequences = [RunningSequence(row, max_new_tokens=LIMIT) for row in ids]
    waiting = list(sequences)
    with ContinuousBatch(model.model, end_ids=model.template.end_ids) as batch:
        while waiting or not batch.is_empty:
            if waiting:
                batch.add(waiting.pop(0))
            batch.step()
    return [tuple(sequence.ids) for sequence in sequences]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_in_mixed_batches_equal_those_of_the_evaluation(
    family: str, tmp_path: Path
) -> None:
    images = files(tmp_path)
    expected = [found.ids for found in open_model(family).generate(prompts(images), LIMIT)]
    model = open_model(family)
    urls = {name: encode(Path(image.path).read_bytes()) for name, image in images.items()}
    received = {name: sent(url) for name, url in urls.items()}
    assert received == images and not received["red"].path
    assert serve(model, prompts(received)) == expected
    assert len({*expected}) > 2, "the answers depend on the prompt"
    alone = [[*model.stream(prompt, LIMIT)][-1] for prompt in prompts(received)]
    assert all(isinstance(found, Generation) for found in alone)
    assert [found.ids for found in alone] == expected


def virtual(ids: list[int], table: features.FeatureTable) -> set[int]:
    return {number for number in ids if number >= table.vocabulary}


def test_images_of_clients_leave_nothing_behind() -> None:
    """Neither on the disk nor in memory; what others still refer to stays."""
    before = {*cache_folder().rglob("*")}
    table = make_table()
    template = features.ImageTemplate.of(image_template(table), table)
    same = {
        name: [sent(encode(picture_bytes(color))) for _ in range(2)]
        for name, color in COLORS.items()
    }
    first = {n: template.encode_prompt((question("*Which?", a),)) for n, (a, _) in same.items()}
    for _, other in same.values():
        table.number(other)
    assert table.count == len(COLORS)
    for name in COLORS:
        del same[name][0]
    gc.collect()
    assert table.count == len(COLORS), "the second part with the same image is still there"
    red = template.encode_prompt((question("*Which?", same["red"][0]),))
    assert red == first["red"]
    for name in ("green", "blue"):
        del same[name]
    gc.collect()
    assert table.count == 2 and table.rows == 2 * 16
    rest = template.encode_prompt((question("*Which?", same["gray"][0]),))
    assert rest == first["gray"] and table.image(3) == same["gray"][0]
    green = sent(encode(picture_bytes(COLORS["green"])))
    again = template.encode_prompt((question("*Which?", green),))
    assert not virtual(again, table) & {i for ids in first.values() for i in ids}
    for image, ids in ((green, again), (same["gray"][0], rest), (same["red"][0], red)):
        found = table.lookup(torch.tensor(sorted(virtual(ids, table))))
        assert found.equal(table.tower.encode(open_picture(image)))
    assert {*cache_folder().rglob("*")} == before


def test_more_images_than_signs_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_IMAGES", 2)
    table, kept = make_table(), []
    for value in range(6):
        table.sign(sent(encode(picture_bytes((value, 0, 0)))))
    for value in range(2):
        kept.append(sent(encode(picture_bytes((value, 0, 0)))))
        table.sign(kept[-1])
    with pytest.raises(UsageError, match="at most 2 distinct images"):
        table.sign(sent(encode(picture_bytes((9, 0, 0)))))
    del kept[0]
    assert ord(table.sign(sent(encode(picture_bytes((9, 0, 0)))))) == features.FIRST_SIGN


def test_a_layout_that_fails_takes_no_sign() -> None:
    table = make_table()
    images = [sent(encode(picture_bytes((value, 0, 0)))) for value in range(3)]
    for image in images:
        table.sign(image)
    tower: Any = table.tower
    layout = tower.layout

    def fail(image: Image) -> Any:
        raise DataError("an image", "is too narrow")

    del image, images[1]
    tower.layout = fail
    other = sent(encode(picture_bytes((7, 0, 0))))
    with pytest.raises(DataError):
        table.sign(other)
    tower.layout = layout
    assert len({table.sign(image) for image in [*images, other]}) == 3
    assert [len(table.ids(table.sign(other))), table.ids(table.sign(other))[0] >= 0] == [16, True]
    assert FEATURE not in table.ids(table.sign(other))


def test_an_image_that_cannot_be_computed_ends_its_request_before_it_is_queued() -> None:
    table = make_table()
    template = features.ImageTemplate.of(image_template(table), table)
    broken = replace(sent(encode(picture_bytes(COLORS["red"]))), data=b"")
    with pytest.raises(PIL.UnidentifiedImageError):
        template.encode_prompt((question("*Which?", broken),))


def bomb() -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("1", (30_000, 30_000)).save(stream, "PNG")
    return stream.getvalue()


def gif() -> bytes:
    stream = io.BytesIO()
    frames = [PIL.Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


PNG = picture_bytes(COLORS["red"])
REFUSED = {
    "not base64": ("data:image/png;base64,%%%", "not valid base64"),
    "padding": (encode(PNG)[:-1], "not valid base64"),
    "no base64": ("data:image/png,abc", "not a base64 data URI"),
    "no data": ("data:", "not a base64 data URI"),
    "another URL": ("x:image/png;base64,abc", "not a base64 data URI"),
    "empty": ("data:image/png;base64,", "image is empty"),
    "truncated": (encode(PNG[:-40]), "image is damaged"),
    "text": (encode(b"hello"), "image format is not known"),
    "type of text": (encode(PNG, "text/plain"), "image/png, not text/plain"),
    "type of another image": (encode(PNG, "image/jpeg"), "image/png, not image/jpeg"),
    "bomb": (encode(bomb()), "image has too many pixels"),
    "frames": (encode(gif(), "image/gif"), "several frames"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_urls_that_cannot_be_used_are_refused_with_the_cause(name: str) -> None:
    url, cause = REFUSED[name]
    with pytest.raises(DataError) as caught:
        sent(url)
    assert cause in caught.value.what and len(caught.value.message) < 300


def test_limits_of_the_rows_hold_for_urls() -> None:
    assert sent(encode(PNG), max_bytes=len(PNG), max_pixels=40 * 32).width == 40
    with pytest.raises(DataError, match="bytes"):
        sent(encode(PNG), max_bytes=len(PNG) - 1)
    with pytest.raises(DataError, match="too many pixels"):
        sent(encode(PNG), max_pixels=40 * 32 - 1)


def test_names_of_media_types_that_clients_use() -> None:
    jpeg = picture_bytes(COLORS["red"], format="JPEG")
    for name in ("image/jpg", "image/jpeg", "image/JPEG", "image/jpeg;charset=utf-8"):
        assert sent(encode(jpeg, name)).width == 40
