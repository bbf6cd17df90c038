"""The formats that datasets use, and rows whose images cannot be used."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
from pictures import COLORS, ask, load_rows, picture_bytes, question, read_images, save_pictures

from tunesmith.errors import IntegrityError
from tunesmith.records import Chat, Message, Preference, find_features
from tunesmith_vision.images import Image, open_picture

RED = picture_bytes(COLORS["red"])
URI = "data:image/png;base64," + base64.b64encode(RED).decode()


def write(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def chat(content: Any, answer: Any = "red", **columns: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **columns}


URL_PART = {"type": "image_url", "image_url": {"url": URI}}
TEXT_PART = {"type": "text", "text": "Which?"}
FORMS = {
    "llama-factory": chat("<image>Which?", images=["red.png"]),
    "ms-swift": chat("<image>Which?", images=[{"path": "red.png", "bytes": None}]),
    "ms-swift-bytes": {**chat("<image>Which?"), "image": URI},
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "<image>Which?"},
            {"from": "gpt", "value": "red"},
        ],
        "images": ["red.png"],
    },
    "alpaca": {"instruction": "<image>Which?", "output": "red", "images": ["red.png"]},
    "completion": {"prompt": "<image>Which?", "completion": "red", "image": "red.png"},
    "openai": chat([URL_PART, TEXT_PART]),
    "openai-input": chat(
        [{"type": "input_image", "image_url": URI}, {"type": "input_text", "text": "Which?"}]
    ),
    "trl": chat([{"type": "image"}, TEXT_PART], images=["red.png"]),
    "trl-prompt": {
        "prompt": [{"role": "user", "content": [{"type": "image"}, TEXT_PART]}],
        "completion": [{"role": "assistant", "content": "red"}],
        "images": ["red.png"],
    },
    "path-part": chat([{"type": "image", "path": "red.png"}, TEXT_PART]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pictures(tmp_path)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_record(name: str, folder: Path) -> None:
    image = read_images(folder)["red"]
    data = load_rows(write(folder, FORMS[name]))
    assert not data.skipped, data.skipped
    (record,) = data.train
    assert isinstance(record, Chat)
    assert record.messages == ask("*Which?", "red", image).messages
    assert find_features(record) == {"media"}
    assert (image.width, image.height) == (40, 32)


def test_a_json_array_and_parquet_give_the_same_records_as_lines(folder: Path) -> None:
    rows = [FORMS["llama-factory"], chat("What? <image><image>", "b", images=["blue.png"] * 2)]
    expected = load_rows(write(folder, *rows)).train
    array = write(folder, json.dumps(rows, indent=1), name="rows.json")
    assert [r.messages for r in load_rows(array).train] == [r.messages for r in expected]
    columns = [{"bytes": (folder / "red.png").read_bytes(), "path": "elsewhere.png"}]
    table = pyarrow.table(
        {
            "question": ["<image>Which?", "<image>Which?"],
            "answer": ["red", "red"],
            "images": [columns, columns],
        }
    )
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    found = load_rows(folder / "rows.parquet").train
    assert [record.messages for record in found] == [expected[0].messages] * 2
    (image,) = found[0].messages[0].media
    assert open_picture(image).size == (40, 32)  # stored in the cache


def test_hub_rows_without_placeholders_put_the_image_first(folder: Path) -> None:
    row = {"question": "Which?", "answer": "red", "image": "red.png"}
    data = load_rows(write(folder, row), place="first")
    assert data.train[0].messages == load_rows(write(folder, FORMS["trl"])).train[0].messages
    listed = load_rows(write(folder, chat([TEXT_PART], images=["red.png"])), place="first")
    assert listed.train[0].messages == data.train[0].messages


def test_several_images_and_turns_keep_their_order(folder: Path) -> None:
    images = read_images(folder)
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<image> or <image>?"},
            {"role": "assistant", "content": "The first."},
            {"role": "user", "content": "And <image>?"},
            {"role": "assistant", "content": "No."},
        ],
        "images": ["blue.png", "red.png", "blue.png"],
    }
    (record,) = load_rows(write(folder, row)).train
    assert record.messages == (
        Message("system", "Be brief."),
        question("* or *?", images["blue"], images["red"]),
        Message("assistant", "The first."),
        question("And *?", images["blue"]),
        Message("assistant", "No."),
    )


def test_pairs_keep_their_images_so_that_other_techniques_refuse_them(folder: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "<image>Which?"}], "images": ["red.png"]}
    pair = {**row, "chosen": "red", "rejected": "blue"}
    (record,) = load_rows(write(folder, pair)).train
    assert isinstance(record, Preference) and find_features(record) == {"media"}


def test_rows_without_images_are_ordinary_rows(folder: Path) -> None:
    data = load_rows(write(folder, {"prompt": "Who?", "completion": "Ann"}, FORMS["trl"]))
    assert [find_features(record) for record in data.train] == [set(), {"media"}]


def test_equal_images_are_equal_wherever_they_are(folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "red.png").read_bytes())
    images = read_images(folder)
    assert images["copy"] == images["red"] and repr(images["copy"]) == repr(images["red"])
    assert images["red"] != images["blue"] and "red.png" not in repr(images["red"])


def test_a_rotated_photograph_is_upright(folder: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    (folder / "turned.png").write_bytes(picture_bytes((9, 9, 9), (40, 32), exif=exif))
    image = read_images(folder)["turned"]
    assert (image.width, image.height) == open_picture(image).size == (32, 40)


def test_an_image_that_changed_after_loading_is_an_error(folder: Path) -> None:
    image = read_images(folder)["red"]
    Path(image.path).write_bytes(picture_bytes((1, 2, 3)))
    with pytest.raises(IntegrityError, match="has changed since the data was loaded"):
        open_picture(image)
    Path(image.path).unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        open_picture(image)


def bomb() -> bytes:
    """Return a PNG of a few hundred bytes that declares 60,000 x 60,000 pixels."""
    header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    data = zlib.compress(bytes(1000))
    magic = b"\x89PNG\r\n\x1a\n"
    return magic + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def animation() -> bytes:
    frames = [PIL.Image.new("RGB", (8, 8), color) for color in ((1, 1, 1), (200, 0, 0))]
    return picture_bytes_of(frames)


def picture_bytes_of(frames: list[PIL.Image.Image]) -> bytes:
    import io

    stream = io.BytesIO()
    frames[0].save(stream, format="GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def one(value: Any) -> dict[str, Any]:
    return chat("<image>Which?", images=[value])


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "missing file": (one("nowhere.png"), "image file does not exist"),
    "folder": (one("."), "image file does not exist"),
    "empty path": (one(""), "image is not a path"),
    "null": (one(None), "image is not a path"),
    "number": (one(7), "image is not a path"),
    "list": (one(["red.png"]), "image is not a path"),
    "object without a path": (one({"bytes": None}), "image is not a path"),
    "bytes as text": (one({"bytes": "abc"}), "image has no bytes"),
    "url": (one("https://example.com/red.png"), "image is a URL, which is never opened"),
    "file url": (one("file:///etc/hosts"), "image is a URL, which is never opened"),
    "outside": (one("../red.png"), "image is outside of the image folder"),
    "absolute": (one("/etc/hosts"), "image is outside of the image folder"),
    "NUL in path": (one("a\0.png"), "image file cannot be read"),
    "empty file": (one("empty.png"), "image is empty"),
    "text file": (one("text.png"), "image format is not known"),
    "svg": (one(uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>")), "image format is not known"),
    "truncated": (one("truncated.png"), "image is damaged"),
    "flipped bytes": (one("flipped.png"), "image is damaged"),
    "bomb": (one(uri(bomb())), "image has too many pixels"),
    "animation": (one(uri(animation())), "image has several frames"),
    "bad base64": (one("data:image/png;base64,@@@"), "image is not valid base64"),
    "uri without base64": (one("data:image/png,abc"), "image is not a base64 data URI"),
    "too few images": (
        chat("<image><image>Which?", images=["red.png"]),
        "placeholders and images differ in number",
    ),
    "too many images": (
        chat("<image>Which?", images=["red.png", "blue.png"]),
        "placeholders and images differ in number",
    ),
    "no placeholder": (
        chat("Which?", images=["red.png"]),
        "placeholders and images differ in number",
    ),
    "no images": (chat("<image>Which?"), "placeholders and images differ in number"),
    "image in an answer": (
        chat("Which?", "<image>", images=["red.png"]),
        "an image stands outside of the user's turns",
    ),
    "image part in an answer": (
        chat("Which?", [URL_PART]),
        "an image stands outside of the user's turns",
    ),
    "image in a text": (
        {"text": "<image>", "images": ["red.png"]},
        "an image stands outside of the user's turns",
    ),
    "reserved character": (
        chat("<image>Which\U00100005?", images=["red.png"]),
        "text has a character that stands for images",
    ),
    "video": (
        chat("<image>Which?", images=["red.png"], videos=["a.mp4"]),
        "`videos` changes what is learned and cannot be used",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_row_is_skipped_with_its_cause(name: str, folder: Path) -> None:
    row, cause = MALFORMED[name]
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    (folder / "truncated.png").write_bytes(RED[: len(RED) // 2])
    flipped = bytearray(RED)
    flipped[len(RED) // 2] ^= 0xFF
    (folder / "flipped.png").write_bytes(flipped)
    data = load_rows(write(folder, FORMS["llama-factory"], row, FORMS["trl"]))
    assert len(data.train) == 2
    ((skipped,)) = data.skipped
    assert skipped.cause == cause and skipped.where.endswith("rows.jsonl:2")
    assert len(skipped.detail) <= 80


def test_there_are_at_least_25_malformed_rows() -> None:
    assert len(MALFORMED) >= 25


def test_limits_are_options(folder: Path) -> None:
    path = write(folder, FORMS["llama-factory"], chat("Who?", "Ann"))
    assert load_rows(path, max_pixels=40 * 32 - 1).skipped[0].cause == "image has too many pixels"
    assert "bytes" in load_rows(path, max_bytes=20).skipped[0].cause
    assert not load_rows(path, max_pixels=40 * 32).skipped


def test_images_in_another_folder(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "data"
    rows.mkdir()
    path = write(rows, FORMS["llama-factory"])
    assert load_rows(path, folder=str(folder)).train[0].messages[0].media
    named = {**FORMS["llama-factory"], "pictures": ["red.png"], "images": None}
    assert load_rows(write(folder, named), images="pictures").train


def test_columns_of_other_names(folder: Path) -> None:
    row = {"q": "<image>Which?", "a": "red", "images": ["red.png"]}
    data = load_rows(write(folder, row), columns={"prompt": "q", "completion": "a"})
    assert isinstance(data.train[0].messages[0].media[0], Image)
