"""The formats that datasets use, and rows whose images cannot be used."""

from __future__ import annotations

import base64
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
from pictures import COLORS, ask, load_rows, picture_bytes, question, read_images, save_pictures

from tunesmith.errors import DataError, IntegrityError
from tunesmith.options import from_table
from tunesmith.records import Chat, Message, Preference, find_features
from tunesmith_vision.images import Image, ImageReader, open_picture
from tunesmith_vision.loader import ImageOptions, read_media

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


CORNERS = {1: "rgbk", 2: "grkb", 3: "kbgr", 4: "bkrg", 5: "rbgk", 6: "brkg", 7: "kgbr", 8: "gkrb"}
"""Colors at the top left, top right, bottom left and bottom right, by EXIF orientation."""


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("name", ["JPEG", "WEBP", "PNG"])
def test_the_pixels_of_a_photograph_are_turned(folder: Path, name: str, orientation: int) -> None:
    colors = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "k": (0, 0, 0)}
    picture = PIL.Image.new("RGB", (64, 32))
    for place, color in zip(((0, 0), (32, 0), (0, 16), (32, 16)), "rgbk", strict=True):
        picture.paste(colors[color], (*place, place[0] + 32, place[1] + 16))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    (folder / "turned.png").write_bytes(saved(picture, format=name, exif=exif))
    turned = open_picture(read_images(folder)["turned"])
    width, height = turned.size
    found = ""
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            pixel = np.array(turned.getpixel((x, y)))
            found += min(colors, key=lambda c: int(abs(pixel - np.array(colors[c])).sum()))
    assert found == CORNERS[orientation] and (width > height) == (orientation < 5)


@pytest.mark.parametrize(
    "value",
    [
        URI.replace("data:image/png;base64", "DATA:image/PNG;BASE64"),
        f" {URI}",
        URI.replace(";base64", ";charset=utf-8;base64"),
        "./x/../red.png",
    ],
)
def test_other_spellings_of_an_image_are_used(value: str, folder: Path) -> None:
    (record,) = load_rows(write(folder, one(value))).train
    assert isinstance(record, Chat)
    assert [*record.messages[0].media] == [read_images(folder)["red"]]
    part = {"type": "image_url", "image_url": {"url": value, "detail": "high"}}
    (same,) = load_rows(write(folder, chat([part, TEXT_PART]))).train
    assert isinstance(same, Chat) and same.messages == record.messages


def test_a_picture_for_print_has_its_colors(folder: Path) -> None:
    picture = PIL.Image.open(io.BytesIO(RED)).convert("CMYK")
    (folder / "print.jpg").write_bytes(saved(picture, format="JPEG", quality=95))
    image = ImageReader(folder, max_pixels=10**6, max_bytes=10**6).read("print.jpg")
    pixel = open_picture(image).getpixel((30, 20))
    assert np.allclose(pixel, COLORS["red"], atol=6)


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


def animation(name: str = "GIF") -> bytes:
    first, second = (PIL.Image.new("RGB", (8, 8), color) for color in ((1, 1, 1), (200, 0, 0)))
    return saved(first, format=name, save_all=True, append_images=[second])


def halved(name: str) -> bytes:
    data = picture_bytes(COLORS["red"], (200, 160), format=name)
    return data[: len(data) // 2]


def saved(picture: PIL.Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, **{"format": "PNG", **options})
    return stream.getvalue()


def deep() -> bytes:
    """Return a PNG with 16 bits per pixel, as scanners and microscopes write them."""
    values = np.linspace(0, 65_535, 64, dtype=np.uint16).reshape(8, 8)
    return saved(PIL.Image.fromarray(values))


def drawing(opaque: bool = False) -> bytes:
    """Return black lines on a transparent, or white, background."""
    picture = PIL.Image.new("RGBA", (8, 8), (255, 255, 255, 255) if opaque else (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (2, 2, 4, 8))
    return saved(picture)


def uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64," + base64.b64encode(data).decode()


def line(width: int, height: int) -> bytes:
    return saved(PIL.Image.new("RGB", (width, height)))


def one(value: Any) -> dict[str, Any]:
    return chat("<image>Which?", images=[value])


PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n%%EOF\n"
OTHER_TYPE = "image has another format than stated"
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
    "pdf": (one({"bytes": None, "path": "file.pdf"}), "image format is not known"),
    "part with a pdf": (
        chat([{"type": "image", "image": uri(PDF)}, TEXT_PART]),
        "image format is not known",
    ),
    "part with a text": (
        chat([{"type": "image", "image": uri(b"red")}, TEXT_PART]),
        "image format is not known",
    ),
    "uri of another format": (one(uri(RED, "image/jpeg")), OTHER_TYPE),
    "uri of a pdf": (one(uri(RED, "application/pdf")), OTHER_TYPE),
    "uri of an svg": (one(uri(RED, "image/svg+xml")), OTHER_TYPE),
    "uri without a type": (one(uri(RED, "")), OTHER_TYPE),
    "uri of a format that is known from a file": (
        chat("<image><image>?", images=["red.png", uri(RED, "image/webp")]),
        OTHER_TYPE,
    ),
    "part of another format": (
        chat([{"type": "image_url", "image_url": {"url": uri(RED, "text/plain")}}, TEXT_PART]),
        OTHER_TYPE,
    ),
    "part with another type": (
        chat([{"type": "image", "image": "red.png", "mime_type": "application/pdf"}, TEXT_PART]),
        OTHER_TYPE,
    ),
    "part whose object has another type": (
        chat(
            [{"type": "image", "image": {"path": "red.png", "media_type": "text/html"}}, TEXT_PART]
        ),
        OTHER_TYPE,
    ),
    "part whose URL object has another type": (
        chat([{"type": "image_url", "image_url": {"url": URI, "format": "webp"}}, TEXT_PART]),
        OTHER_TYPE,
    ),
    "placeholder part with another type": (
        chat([{"type": "image", "mimeType": "image/gif"}, TEXT_PART], images=["red.png"]),
        OTHER_TYPE,
    ),
    "object with another type": (one({"path": "red.png", "Content-Type": "video/mp4"}), OTHER_TYPE),
    "object of another kind": (one({"path": "red.png", "type": "video"}), OTHER_TYPE),
    "type that is not a text": (one({"path": "red.png", "mime_type": 7}), OTHER_TYPE),
    "part with a source beside an image": (
        chat(
            [{"type": "image", "source": {"type": "base64", "data": "AAAA"}}, TEXT_PART],
            images=["blue.png"],
        ),
        "an image part has the key `source`, which cannot be used",
    ),
    "part with a video beside an image": (
        chat([{"type": "image", "image": "red.png", "video": "a.mp4"}, TEXT_PART]),
        "an image part has the key `video`, which cannot be used",
    ),
    "too narrow": (one(uri(line(1, 201))), "image is too narrow"),
    "too low": (one(uri(line(1001, 5))), "image is too narrow"),
    "truncated": (one("truncated.png"), "image is damaged"),
    "flipped bytes": (one("flipped.png"), "image is damaged"),
    "bomb": (one(uri(bomb())), "image has too many pixels"),
    "animation": (one(uri(animation())), "image has several frames"),
    "animated WebP": (one(uri(animation("WEBP"), "image/webp")), "image has several frames"),
    "animated PNG": (one(uri(animation("PNG"))), "image has several frames"),
    "photograph with a depth map": (
        one(uri(animation("MPO"), "image/jpeg")),
        "image has several frames",
    ),
    "JPEG cut in the middle": (
        one(uri(halved("JPEG"), "image/jpeg")),
        "image is damaged",
    ),
    "TIFF": (one(uri(animation("TIFF"), "image/tiff")), "image format is not known"),
    "loop of links": (one("loop.png"), "image file cannot be read"),
    "link to nothing": (one("dangling.png"), "image file does not exist"),
    "very long name": (one("a" * 5_000 + ".png"), "image file cannot be read"),
    "half of a character": (one("\ud800.png"), "image file cannot be read"),
    "url of a hub": (one("hf://datasets/a/b.png"), "image is a URL, which is never opened"),
    "url of a browser": (one("blob:4711"), "image is a URL, which is never opened"),
    "url after a space": (
        one(" HTTPS://example.com/a.png"),
        "image is a URL, which is never opened",
    ),
    "base64 for URLs": (one("data:image/png;base64,-_-_"), "image is not valid base64"),
    "base64 without padding": (one(uri(RED + b"x").rstrip("=")), "image is not valid base64"),
    "transparent color": (
        one(uri(saved(PIL.Image.new("RGB", (8, 8)), transparency=(0, 0, 0)))),
        "image has transparent pixels",
    ),
    "too few images in a later turn": (
        {
            "messages": [*chat("<image>a")["messages"], *chat("<image>b")["messages"]],
            "images": ["red.png"],
        },
        "placeholders and images differ in number",
    ),
    "image in a system turn": (
        {
            "messages": [{"role": "system", "content": "<image>"}, *chat("Which?")["messages"]],
            "images": ["red.png"],
        },
        "an image stands outside of the user's turns",
    ),
    "16 bits": (one(uri(deep())), "image has more than 8 bits per channel"),
    "transparent": (one(uri(drawing())), "image has transparent pixels"),
    "transparent palette": (
        one(uri(saved(PIL.Image.open(io.BytesIO(drawing())).convert("LA")))),
        "image has transparent pixels",
    ),
    "pipe": (one("pipe.png"), "image file does not exist"),
    "link to a device": (one("zero.png"), "image is outside of the image folder"),
    "link to a file elsewhere": (one("hosts.png"), "image is outside of the image folder"),
    "up and down": (one("x/../../../etc/hosts"), "image is outside of the image folder"),
    "nested paths": (
        one({"path": {"path": {"path": "../red.png"}}}),
        "image is outside of the image folder",
    ),
    "part with two images": (
        chat([{"type": "image", "image": "red.png", "path": "blue.png"}, TEXT_PART]),
        "a part has more than one image or text",
    ),
    "part with image and text": (
        chat([{"type": "image", "image": "red.png", "text": "Which?"}]),
        "a part has more than one image or text",
    ),
    "nested too deeply": (
        {**one("red.png"), "more": json.loads("[" * 40 + "]" * 40)},
        "row is nested deeper than 32 levels",
    ),
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
    (folder / "file.pdf").write_bytes(PDF)
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "hosts.png").symlink_to("/etc/hosts")
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


@pytest.mark.parametrize(
    "stated",
    [
        {"mime_type": "image/png"},
        {"media_type": "IMAGE/PNG; charset=binary"},
        {"type": "image", "format": "PNG"},
        {"type": "image/png", "mimeType": None},
    ],
)
def test_a_media_type_that_is_right_is_accepted(stated: dict[str, Any], folder: Path) -> None:
    (folder / "red.jpg").write_bytes(picture_bytes(COLORS["red"], format="JPEG"))
    path = write(folder, one({"path": "red.png", **stated}), one({"path": "red.jpg"}))
    assert not load_rows(path).skipped
    jpeg = [one({"path": "red.jpg", "format": name}) for name in ("jpg", "JPEG", "image/jpg")]
    assert not load_rows(write(folder, *jpeg)).skipped


def test_the_media_types_in_parquet_must_be_right(folder: Path) -> None:
    rows = [
        {"question": "<image>Which?", "answer": "red", "images": [{"bytes": data, "mime_type": t}]}
        for data, t in ((RED, "image/png"), (RED, None), (RED, "image/jpeg"), (PDF, "image/png"))
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    data = load_rows(folder / "rows.parquet")
    assert len(data.train) == 2
    assert [skipped.cause for skipped in data.skipped] == [OTHER_TYPE, "image format is not known"]
    assert data.skipped[0].detail == "image/png, not image/jpeg"


def test_the_narrowest_images_that_are_accepted(folder: Path) -> None:
    data = load_rows(write(folder, one(uri(line(1, 200))), one(uri(line(1000, 5)))))
    assert not data.skipped and len(data.train) == 2


def test_an_opaque_alpha_channel_is_accepted(folder: Path) -> None:
    (folder / "opaque.png").write_bytes(drawing(opaque=True))
    image = read_images(folder)["opaque"]
    assert np.unique(np.asarray(open_picture(image))).tolist() == [0, 255]


def test_a_damaged_image_in_the_cache_is_written_again(folder: Path) -> None:
    path = write(folder, FORMS["openai"])
    (image,) = load_rows(path).train[0].messages[0].media  # type: ignore[attr-defined]
    Path(image.path).write_bytes(RED[:20])
    (again,) = load_rows(path).train[0].messages[0].media  # type: ignore[attr-defined]
    assert open_picture(again).size == (40, 32)


def test_a_row_of_an_array_with_the_same_key_twice_is_skipped(folder: Path) -> None:
    good = json.dumps(FORMS["completion"])
    array = f'[{good}, {{"prompt": "<image>?", "completion": "a", "completion": "b"}}]'
    data = load_rows(write(folder, array, name="rows.json"))
    assert len(data.train) == 1 and data.skipped[0].cause == "an object has the same key twice"


def test_a_row_that_is_too_large_does_not_stop_the_others(folder: Path) -> None:
    large = chat("<image>" + "a" * 3000, images=["red.png"])
    data = load_rows(write(folder, FORMS["trl"], large, FORMS["trl"]), max_row_bytes=2000)
    assert len(data.train) == 2 and data.skipped[0].where.endswith(":2")


def test_parts_as_parquet_stores_them(folder: Path) -> None:
    """All parts have all keys there, and an image has both its bytes and a name."""
    image = {"type": "image", "text": None, "bytes": RED, "path": "gone.png", "url": None}
    text = {"type": "text", "text": "Which?", "bytes": None, "path": None, "url": None}
    answer = [{**text, "text": "red"}]
    row = chat([image, text], answer)
    table = pyarrow.Table.from_pylist([row])
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    data = load_rows(folder / "rows.parquet")
    assert not data.skipped, data.skipped
    expected = ask("*Which?", "red", read_images(folder)["red"])
    assert data.train[0].messages == expected.messages  # type: ignore[attr-defined]


def test_an_ignored_column_takes_no_image(folder: Path) -> None:
    row = {**FORMS["completion"], "input": "<image>again?"}
    assert len(load_rows(write(folder, row, FORMS["trl"])).skipped) == 1
    data = load_rows(write(folder, row), ignore=["input"])
    assert not data.skipped and len(data.train[0].messages[0].media) == 1  # type: ignore[attr-defined]
    first = {**row, "prompt": "Which?"}
    data = load_rows(write(folder, first), ignore=["input"], place="first")
    assert data.train[0].messages[0].media  # type: ignore[attr-defined]


def test_images_that_training_and_test_rows_may_share_are_a_warning(folder: Path) -> None:
    rows = [one("red.png"), {**one("red.png"), "who": "a"}, {**one("blue.png"), "who": "b"}]
    path = write(folder, *rows)
    (found,) = [w for w in load_rows(path).warnings if w.startswith("1 image")]
    assert found.startswith("1 image in more than one row")
    grouped = load_rows(write(folder, *rows[1:], *rows[1:]), group="who")
    assert not [w for w in grouped.warnings if w.startswith("1 image")]
    test = write(folder, one("blue.png"), one("green.png"), name="test.jsonl")
    (found,) = [w for w in load_rows(path, test=str(test)).warnings if w.startswith("1 image")]
    assert found == "1 image of test rows also in training rows"


def test_an_empty_column_does_not_hide_the_other_one(folder: Path) -> None:
    row = {**FORMS["completion"], "images": []}
    assert load_rows(write(folder, row)).train
    both = {**FORMS["completion"], "images": ["blue.png"]}
    assert "`image` changes what is learned" in load_rows(write(folder, both, row)).skipped[0].cause


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
    named = {"dialog": FORMS["trl"]["messages"], "images": ["red.png"]}
    data = load_rows(write(folder, named), columns={"messages": "dialog"})
    assert not data.skipped and data.train[0].messages[0].media


def test_media_of_a_conversation_are_read_with_the_limits_of_the_rows(folder: Path) -> None:
    options = from_table(ImageOptions, {"train": "rows.jsonl", "max_pixels": 100})
    assert (
        read_media(options.model_copy(update={"max_pixels": 10**6}), folder / "red.png")
        == (read_images(folder)["red"])
    )
    with pytest.raises(DataError, match=r"red.png: image has too many pixels"):
        read_media(options, folder / "red.png")


def test_a_small_picture_is_upright_and_has_the_size_in_words(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "red.jpg").write_bytes(
        picture_bytes(COLORS["red"], (400, 200), format="JPEG", exif=exif)
    )
    image = ImageReader(tmp_path, 10**6, 10**6).read("red.jpg")
    start = image.sha256[:8]
    assert image.describe() == f"{tmp_path / 'red.jpg'}: image, 200 x 400 pixels, {start}"
    preview = image.preview(96)
    assert preview is not None and preview.description == f"image, 200 x 400 pixels, {start}"
    assert (preview.width, preview.height) == (48, 96)
    assert len(preview.pixels) == 3 * 48 * 96 and len(preview.data) < 8_000
    with PIL.Image.open(io.BytesIO(preview.data)) as shown:
        assert shown.size == (48, 96) and f"image/{shown.format}".lower() == preview.media_type
    (tmp_path / "red.jpg").unlink()
    assert image.preview(96) is None
