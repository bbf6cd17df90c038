"""Small pictures, and the rows that name them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import PIL.Image

from tunesmith.contracts import Dataset
from tunesmith.options import from_table
from tunesmith.records import Chat, Message, TextPart
from tunesmith_vision.images import Image, ImageReader
from tunesmith_vision.loader import ImageLoader, ImageOptions

COLORS = {"red": (220, 20, 20), "green": (20, 200, 40), "blue": (30, 40, 230), "gray": (99, 99, 99)}


def picture_bytes(
    color: tuple[int, int, int], size: tuple[int, int] = (40, 32), **options: Any
) -> bytes:
    """Return a picture whose halves differ, so a flipped or shifted one is another picture."""
    picture = PIL.Image.new("RGB", size, color)
    picture.paste((250, 250, 250), (0, 0, size[0] // 2, size[1] // 4))
    stream = io.BytesIO()
    picture.save(stream, **{"format": "PNG", **options})
    return stream.getvalue()


def save_pictures(folder: Path) -> Path:
    """Write one picture of each color, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, color in COLORS.items():
        (folder / f"{name}.png").write_bytes(picture_bytes(color))
    return folder


def read_images(folder: Path) -> dict[str, Image]:
    """Return the images of a folder by the names of their files."""
    reader = ImageReader(folder, max_pixels=10**6, max_bytes=10**6)
    return {path.stem: reader.read(path.name) for path in sorted(folder.glob("*.png"))}


def load_rows(path: Path, **table: Any) -> Dataset:
    """Read a file of rows."""
    given = {"train": str(path), "max_skipped": 1.0, **table}
    return ImageLoader(from_table(ImageOptions, given)).load()


def ask(text: str, answer: str, *images: Image, source: str = "f:1") -> Chat:
    """Return a conversation of one exchange; ``*`` in the text stands for the next image."""
    return Chat(source=source, messages=(question(text, *images), Message("assistant", answer)))


def question(text: str, *images: Image) -> Message:
    left, parts = iter(images), []
    for at, piece in enumerate(text.split("*")):
        parts += [next(left)] if at else []
        parts += [TextPart(piece)] if piece else []
    return Message("user", tuple(parts))
