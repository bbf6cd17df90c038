"""Find the images of a row, in the forms that datasets use, and mark where they stand.

Four forms are understood::

    "messages": [{"role": "user", "content": "<image>Which?"}], "images": ["a.png"]
    "prompt": "<image>Which?", "completion": "a cat", "images": [{"bytes": ..., "path": ...}]
    "content": [{"type": "image"}, {"type": "text", "text": "Which?"}], "images": ["a.png"]
    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}, ...]

The first is that of LLaMA-Factory and ms-swift, the third that of TRL, the last OpenAI's. An image
stands only in a user's turn, and each placeholder has exactly one image: rows that break one of
these rules are refused, because guessing would pair questions with the wrong pictures.

:func:`mark_images` replaces each placeholder with a *mark*, a short text of private-use characters
with the image's SHA-256. The toolkit then builds the record as for any other row, and
:func:`restore_images` turns the marks into parts of messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from tunesmith.records import Chat, Completion, Message, Part, Record, TextPart
from tunesmith_data import MEDIA_SIGNS, Fields, RowError
from tunesmith_vision.images import Image

__all__ = ["mark_images", "restore_images"]

PLACEHOLDER = "<image>"
_OPEN, _CLOSE = "\U0010fff0", "\U0010fff1"
_MARK = re.compile(f"{_OPEN}([0-9a-f]{{64}}){_CLOSE}")
_ASK = ("prompt", "question", "instruction", "input", "query")
_CONVERSATIONS = ("messages", "conversations", "conversation", "prompt")
_USERS = ("user", "human")
_IMAGE_TYPES = ("image", "image_url", "input_image")
_SOURCES = ("image_url", "image", "url")
"""Keys of an image part that may hold the image, or an object that holds it. `bytes` and `path` can
hold it too; `bytes` is used if both are there."""
_OTHER_MEDIA = ("audio", "data", "file", "source", "video")
"""Keys of an image part that hold media in forms that are not read. Without them, the part would
get the next image of the column."""

Read = Callable[[object, Mapping[str, Any]], Image]
"""Returns the image of a value; the second argument is the part around it, or an empty object."""


def mark_images(
    fields: Fields, read: Read, *, column: str | None, first: bool, asked: Iterable[str] = ()
) -> Fields:
    """Return the row with a mark in place of each placeholder, and without its column of images.

    ``column`` holds the images; None: ``images`` or ``image``. With ``first``, the images of a row
    without placeholders stand before the first text of the user. ``asked`` names further columns
    with texts of the user, or with conversations.

    Raises:
        RowError: an image cannot be used, or the placeholders and the images do not agree.
    """
    _refuse_reserved(fields)
    name = column or next((c for c in ("images", "image") if fields.get(c)), "images")
    listed = fields.get(name)
    values = listed if isinstance(listed, list) else [] if listed in (None, "") else [listed]
    row = _Row(read, values, (*asked, *_ASK))
    found = {key: row.column(key, value) for key, value in fields.items() if key != name}
    if first and values and not row.placeholders:
        found = _place_first(found, row.asked, "".join(row.next() for _ in values))
    if row.placeholders != len(values):
        hint = f'write {PLACEHOLDER} where each image belongs, or set data.place = "first"'
        detail = f"{row.placeholders} placeholders, {len(values)} images"
        raise RowError("placeholders and images differ in number", detail, hint=hint)
    return found


@dataclass
class _Row:
    """The images of a row that have not been placed yet."""

    read: Read
    values: list[object]
    asked: tuple[str, ...]
    """Columns with texts of the user."""
    placeholders: int = 0
    """Number of placeholders found so far; each takes the next image."""

    def next(self, part: Mapping[str, Any] = MappingProxyType({})) -> str:
        """Return the mark of the next image in the column, which ``part`` stands for."""
        self.placeholders += 1
        if self.placeholders > len(self.values):
            return ""  # reported when all placeholders have been counted
        return _mark(self.read(self.values[self.placeholders - 1], part))

    def column(self, name: str, value: object) -> object:
        """Return a column with marks in place of placeholders."""
        if isinstance(value, list) and name in (*_CONVERSATIONS, *self.asked):
            return [self._message(item) for item in value]
        if isinstance(value, str) and name in self.asked:
            return self._text(value)
        _refuse_placeholder(value, f"`{name}`")
        return value

    def _message(self, item: object) -> object:
        if not isinstance(item, Mapping):
            _refuse_placeholder(item, "a turn without a role")
            return item
        role = item.get("role", item.get("from"))
        if role not in _USERS:
            _refuse_placeholder(item, f"a turn of {role}")
            return item
        key = "content" if "content" in item else "value"
        content = item.get(key)
        if isinstance(content, list):
            return {**item, key: [self._part(part) for part in content]}
        return {**item, key: self._text(content) if isinstance(content, str) else content}

    def _part(self, part: object) -> object:
        if not isinstance(part, Mapping):
            return part
        if part.get("type") in _IMAGE_TYPES:
            found = _sources(part)
            text = _mark(self.read(found[0], part)) if found else self.next(part)
            return {"type": "text", "text": text}
        if isinstance(part.get("text"), str):
            return {**part, "text": self._text(part["text"])}
        return part

    def _text(self, text: str) -> str:
        return re.sub(PLACEHOLDER, lambda match: self.next(), text)


def _sources(part: Mapping[str, Any]) -> list[object]:
    """Return the image of a part, or nothing if it is the next one of the column."""
    found = [part[key] for key in _SOURCES if part.get(key) is not None]
    found += [part] if (part.get("bytes"), part.get("path")) != (None, None) else []
    if len(found) > 1 or part.get("text"):
        hint = "write one part for each image, and one for each text"
        raise RowError("a part has more than one image or text", hint=hint)
    for key in part:
        if key.removesuffix("_url") in _OTHER_MEDIA and part[key]:
            hint = "write the image as a path or a data URI, and remove the key"
            raise RowError(f"an image part has the key `{key}`, which cannot be used", hint=hint)
    return found


def _mark(image: Image) -> str:
    return f"{_OPEN}{image.sha256}{_CLOSE}"


def _place_first(
    fields: dict[str, object], asked: tuple[str, ...], marks: str
) -> dict[str, object]:
    """Put marks before the first text of the user."""
    for name in (*_CONVERSATIONS, *asked):
        turns = fields.get(name)
        if isinstance(turns, list):
            for at, turn in enumerate(turns):
                if isinstance(turn, Mapping) and turn.get("role", turn.get("from")) in _USERS:
                    return {**fields, name: [*turns[:at], _prepend(turn, marks), *turns[at + 1 :]]}
    for name in asked:
        if isinstance(text := fields.get(name), str):
            return {**fields, name: marks + text}
    raise RowError("the row has no text of the user to put its images before")


def _prepend(turn: Mapping[str, Any], marks: str) -> dict[str, Any]:
    key = "content" if "content" in turn else "value"
    content = turn.get(key)
    if isinstance(content, list):
        return {**turn, key: [{"type": "text", "text": marks}, *content]}
    return {**turn, key: f"{marks}{content}"}


def _refuse_placeholder(value: object, where: str) -> None:
    """Refuse an image that the model would have to write, or that no turn of the user shows."""
    for item in _walk(value):
        is_part = isinstance(item, Mapping) and item.get("type") in _IMAGE_TYPES
        if is_part or (isinstance(item, str) and PLACEHOLDER in item):
            hint = "move the image to a turn of the user"
            raise RowError("an image stands outside of the user's turns", where, hint=hint)


def _refuse_reserved(fields: Fields) -> None:
    if any(isinstance(item, str) and MEDIA_SIGNS.search(item) for item in _walk(fields)):
        hint = "remove the characters from U+100000 on"
        raise RowError("text has a character that stands for images", hint=hint)


def _walk(value: object) -> Iterator[object]:
    """Yield a value and all values inside it."""
    yield value
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


def restore_images(record: Record, images: Mapping[str, Image]) -> Record:
    """Return the record with images in place of marks; a completion becomes a conversation."""
    match record:
        case Completion() if _MARK.search(record.prompt):
            user = Message("user", _parts(record.prompt, images))
            return Chat(
                source=record.source,
                group=record.group,
                slices=record.slices,
                messages=(user, Message("assistant", record.completion)),
            )
        case Chat():
            return replace(record, messages=_messages(record.messages, images))
    # Pairs and labels: techniques that train on them refuse the images.
    prompt = getattr(record, "prompt", ())
    if isinstance(prompt, tuple) and prompt:
        changed: Any = {"prompt": _messages(prompt, images)}
        return replace(record, **changed)
    return record


def _messages(messages: tuple[Message, ...], images: Mapping[str, Image]) -> tuple[Message, ...]:
    return tuple(
        replace(m, content=_parts(m.text, images)) if m.role == "user" else m for m in messages
    )


def _parts(text: str, images: Mapping[str, Image]) -> tuple[Part, ...]:
    pieces = _MARK.split(text)
    parts: list[Part] = []
    for at, piece in enumerate(pieces):
        if at % 2:
            parts.append(images[piece])
        elif piece:
            parts.append(TextPart(piece))
    return tuple(parts) or (TextPart(""),)
