"""Images as parts of messages: checked before they are used, and identified by their content.

An image is decoded completely when it is loaded, with limits on its bytes and pixels. A file that
is truncated, or that expands to a huge picture, therefore becomes a skipped row. So does one whose
conversion to RGB would lose what it shows: with more than 8 bits per channel, or transparent. A
media type that a row states must be that of the bytes: otherwise, the row or the image is another
one than its author thought. Nothing is ever read from a URL.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from tunesmith.errors import IntegrityError
from tunesmith.plugins import cache_folder
from tunesmith.records import Message, Part, Preview, Prompt
from tunesmith.storage import write_atomic
from tunesmith_data import RowError, json_type

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["Image", "ImageReader", "decode_image", "find_images", "open_picture", "replace_images"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""File formats that may be decoded; the others of Pillow are rare, and attack surface."""
MAX_ASPECT_RATIO = 200
"""Limit of the longer side relative to the shorter one. The processor of Qwen2-VL and Qwen2.5-VL
refuses narrower images. Others shrink them until nothing can be seen."""
_ORIENTATION = 0x0112
_ALIASES = {"image/jpg": "image/jpeg", "image/x-ms-bmp": "image/bmp"}
"""Names of media types that clients use beside the registered ones."""
_TYPE_KEYS = ("mediatype", "mimetype", "contenttype", "format", "type")
"""Keys of objects that may state a media type, in lower case, without `_` and `-`."""
_NO_TYPES = (None, "image", "image_url", "input_image")
"""Values of these keys that state no format."""
_TRANSPOSED = (5, 6, 7, 8)
"""Values of the EXIF orientation that swap width and height."""
_TOO_MANY, _SHRINK = "image has too many pixels", "shrink the image, or raise data.max_pixels"
_OTHER_FORMAT = "image has another format than stated"
_URL = re.compile(r"\s*(?:[a-z][a-z\d+.-]+://|(?:https?|ftp|s3|gs|file|blob):)", re.IGNORECASE)
_DATA_URI = re.compile(r"\s*data:", re.IGNORECASE)


@final
@dataclass(frozen=True, slots=True, weakref_slot=True)
class Image(Part):
    """An image in a message; two images are equal if their files have the same bytes."""

    path: str = field(repr=False, compare=False)
    """File with the image; it may move without changing what a model learns from it."""
    sha256: str
    width: int
    """Width in pixels, after the rotation that the file asks for."""
    height: int
    """Height in pixels, after the rotation that the file asks for."""
    data: bytes | None = field(default=None, repr=False, compare=False)
    """Bytes of an image that is in no file, such as one that a client sent to a server. Neither it
    nor its features are written to the disk."""

    def describe(self) -> str:
        """Return the path of the file, the size in pixels, and the start of the SHA-256."""
        return f"{self.path}: {self._size}" if self.path else self._size

    def preview(self, side: int) -> Preview | None:
        """Return a small picture, or None if the file is missing or has changed."""
        from PIL.Image import Resampling

        try:
            picture = open_picture(self)
        except IntegrityError:
            return None
        picture.thumbnail((side, side), Resampling.BOX)
        media_type, data = min(_encode(picture), key=lambda encoded: len(encoded[1]))
        width, height = picture.size
        return Preview(self._size, width, height, picture.tobytes(), media_type, data)

    @property
    def _size(self) -> str:
        return f"image, {self.width:,} x {self.height:,} pixels, {self.sha256[:8]}"


@dataclass
class ImageReader:
    """Finds, checks and identifies the images that rows name."""

    folder: Path
    """Folder of relative paths; images outside of it are refused."""
    max_pixels: int
    max_bytes: int
    known: dict[str, Image] = field(default_factory=dict)
    """Checked images, by SHA-256."""
    _by_path: dict[Path, str] = field(default_factory=dict)
    _media_types: dict[str, str] = field(default_factory=dict)
    """Media types of the checked images, by SHA-256."""

    def read(self, value: object, stated: Mapping[str, object] = MappingProxyType({})) -> Image:
        """Return the image that a row names: a path, a data URI, or an object with one of them.

        The object may also have the bytes. ``stated`` is the part of a message around the value.

        Raises:
            RowError: the image cannot be used, or has another format than the row states.
        """
        image = self._find(value)
        for media_type in _list_stated_types(stated, value):
            _check_media_type(self._media_types[image.sha256], media_type)
        return image

    def _find(self, value: object) -> Image:
        if isinstance(value, Mapping):
            data, path = value.get("bytes"), value.get("path") or value.get("url")
            return self._from_bytes(data) if data is not None else self.read(path)
        if isinstance(value, bytes):
            return self._from_bytes(value)
        if not isinstance(value, str) or not value.strip():
            raise RowError("image is not a path", json_type(value))
        if _DATA_URI.match(value):
            media_type, data = _decode_uri(value, self.max_bytes)
            image = self._from_bytes(data)
            _check_media_type(self._media_types[image.sha256], media_type)
            return image
        if _URL.match(value):
            hint = "download the images first, and name their files"
            raise RowError("image is a URL, which is never opened", value, hint=hint)
        return self._from_path(value)

    def _from_path(self, name: str) -> Image:
        try:
            path = (self.folder / name).resolve()
            if not path.is_relative_to(self.folder.resolve()):
                hint = "set data.folder to a folder that contains all images"
                raise RowError("image is outside of the image folder", name, hint=hint)
            if path in self._by_path:
                return self.known[self._by_path[path]]
            if not path.is_file():
                hint = f"paths are relative to {self.folder}; set data.folder to change this"
                raise RowError("image file does not exist", name, hint=hint)
            with path.open("rb") as file:
                data = file.read(self.max_bytes + 1)
        except (OSError, ValueError, RuntimeError) as error:  # the last for a loop of links
            raise RowError("image file cannot be read", f"{name}: {error}") from error
        image = self._check(data, path)
        self._by_path[path] = image.sha256
        return image

    def _from_bytes(self, data: object) -> Image:
        if not isinstance(data, bytes):
            raise RowError("image has no bytes", json_type(data))
        return self._check(data, None)

    def _check(self, data: bytes, path: Path | None) -> Image:
        """Decode an image once, and return it; bytes without a file are stored in the cache."""
        _check_size(data, self.max_bytes)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in self.known:
            width, height, self._media_types[sha256] = _measure(data, self.max_pixels)
            stored = path or _store(data, sha256)
            self.known[sha256] = Image(str(stored), sha256, width, height)
        return self.known[sha256]


def decode_image(uri: str, max_pixels: int, max_bytes: int) -> Image:
    """Return the image of a data URI, which stays in memory.

    Raises:
        RowError: the image cannot be used, or has another format than the URI states.
    """
    media_type, data = _decode_uri(uri, max_bytes)
    _check_size(data, max_bytes)
    width, height, found = _measure(data, max_pixels)
    _check_media_type(found, media_type)
    return Image("", hashlib.sha256(data).hexdigest(), width, height, data)


def _list_stated_types(*values: object) -> Iterator[object]:
    """Yield the media types that a part of a message, or an object with an image, states."""
    for value in values:
        for key, item in value.items() if isinstance(value, Mapping) else ():
            if re.sub("[_-]", "", key.lower()) in _TYPE_KEYS and item not in _NO_TYPES:
                yield item


def _check_media_type(found: str, stated: object) -> None:
    """Compare the media type of an image with the one that its row states, such as "JPEG"."""
    name = str(stated).partition(";")[0].strip().lower()
    name = name if "/" in name else f"image/{name}"
    if _ALIASES.get(name, name) != found:
        hint = "check that it is the right image, and state its format, or none"
        raise RowError(_OTHER_FORMAT, f"{found}, not {stated!s:.40}", hint=hint)


def _check_size(data: bytes, max_bytes: int) -> None:
    if not data:
        raise RowError("image is empty")
    if len(data) > max_bytes:
        hint = "raise data.max_bytes if you expect images of this size"
        raise RowError(f"image has more than {max_bytes:,} bytes", hint=hint)


def _measure(data: bytes, max_pixels: int) -> tuple[int, int, str]:
    """Decode an image, and return its width, its height and its media type.

    The header is checked before any pixel is decoded.
    """
    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limit below is stricter than Pillow's warning
            picture = PIL.Image.open(BytesIO(data), formats=FORMATS)
        width, height = picture.size
        if width * height > max_pixels:
            raise RowError(_TOO_MANY, f"{width:,} x {height:,}", hint=_SHRINK)
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            hint = f"use images whose sides differ at most by a factor of {MAX_ASPECT_RATIO}"
            raise RowError("image is too narrow", f"{width:,} x {height:,}", hint=hint)
        if getattr(picture, "n_frames", 1) > 1:
            raise RowError("image has several frames", hint="save one frame as its own image")
        rotated = picture.getexif().get(_ORIENTATION) in _TRANSPOSED
        picture.load()
        _refuse_lossy(picture)
    except RowError:
        raise
    except PIL.UnidentifiedImageError as error:
        hint = f"save it as one of {', '.join(FORMATS)}"
        raise RowError("image format is not known", hint=hint) from error
    except PIL.Image.DecompressionBombError as error:
        raise RowError(_TOO_MANY, hint=_SHRINK) from error  # it has no sizes
    # All exceptions, because decoders raise any kind for damaged files.
    except Exception as error:
        raise RowError("image is damaged", str(error)) from error
    width, height = (height, width) if rotated else (width, height)
    return width, height, PIL.Image.MIME[str(picture.format)]


def _refuse_lossy(picture: Picture) -> None:
    """Refuse a picture that Pillow cannot convert to RGB without loss.

    Values of more than 8 bits would be clipped to white, and transparent pixels would get whatever
    color is stored below them, which is black in most drawings.
    """
    if picture.mode.startswith(("I", "F")):
        hint = "scale its values to 8 bits, and save it again"
        raise RowError("image has more than 8 bits per channel", picture.mode, hint=hint)
    if picture.has_transparency_data and picture.convert("RGBA").getextrema()[3][0] < 255:
        hint = "paste it on a background, and save it without transparency"
        raise RowError("image has transparent pixels", hint=hint)


def replace_images(
    messages: Iterable[Message], convert: Callable[[Image], Part]
) -> tuple[Message, ...]:
    """Return the messages with the result of ``convert`` in place of each image."""

    def change(part: Part) -> Part:
        return convert(part) if isinstance(part, Image) else part

    return tuple(
        replace(m, content=tuple(map(change, m.content))) if m.media else m  # type: ignore[arg-type]
        for m in messages
    )


def find_images(prompt: Prompt) -> Iterator[Image]:
    """Yield the images of a prompt, in order."""
    for message in () if isinstance(prompt, str) else prompt:
        yield from (part for part in message.media if isinstance(part, Image))


def open_picture(image: Image) -> Picture:
    """Decode a checked image as RGB, upright.

    Raises:
        IntegrityError: the file is missing, or has changed since it was checked.
    """
    import PIL.Image
    from PIL import ImageOps

    data = _read_checked(image) if image.data is None else image.data
    with PIL.Image.open(BytesIO(data), formats=FORMATS) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def _encode(picture: Picture) -> Iterator[tuple[str, bytes]]:
    """Yield a picture as files of the types that browsers show."""
    for name, options in (("JPEG", {"quality": 75}), ("PNG", {"optimize": True})):
        stream = BytesIO()
        picture.save(stream, name, **options)
        yield f"image/{name.lower()}", stream.getvalue()


def _read_checked(image: Image) -> bytes:
    try:
        data = Path(image.path).read_bytes()
    except OSError as error:
        raise IntegrityError(
            f"{image.path}: the image cannot be read: {error}", hint="restore the file"
        ) from error
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise IntegrityError(
            f"{image.path}: the image has changed since the data was loaded",
            hint="restore the file, or start a new run",
        )
    return data


def _decode_uri(uri: str, max_bytes: int) -> tuple[str, bytes]:
    """Return the media type and the bytes of a data URI, as in OpenAI's chat API."""
    header, comma, text = uri.partition(",")
    scheme, _, rest = header.strip().lower().partition(":")
    media_type, *parameters = rest.split(";")
    if not comma or scheme != "data" or parameters[-1:] != ["base64"]:
        raise RowError("image is not a base64 data URI", header[:40])
    try:
        # One more byte than allowed is enough to refuse an image.
        return media_type, base64.b64decode(text[: 4 * (max_bytes // 3 + 2)], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError("image is not valid base64", str(error)) from error


def _store(data: bytes, sha256: str) -> Path:
    """Write an image that has no file to the cache, and return its path."""
    path = cache_folder() / "images" / sha256[:2] / sha256
    if not path.is_file() or path.read_bytes() != data:  # damaged files are written again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    return path
