"""Read the images in the messages of a request.

Clients send images as ``data:`` URLs. The run's data loader decodes them, with the limits of its
options, in the thread that encodes prompts. The server never opens an address.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith.errors import DataError
from tunesmith.fence import fence
from tunesmith.plan import Plan
from tunesmith.records import Message, Part, Prompt, TextPart
from tunesmith_data import parse_messages
from tunesmith_plugins.commands.serve.api_error import ApiError

ReadImage = Callable[[str], Part]
"""Returns the image in a ``data:`` URL."""


@dataclass(frozen=True, slots=True)
class SentImage(Part):
    """An image of a request that is not decoded yet."""

    url: str = field(repr=False)


def make_image_reader(plan: Plan) -> ReadImage | None:
    """Return a function that decodes images as the run's data loader does, or None without one."""
    offer, plugin = plan.data.offer, plan.data.offered.plugin
    read = offer.read_media
    if read is None:
        return None

    def read_image(url: str) -> Part:
        with fence(plugin, "read_media", may_take_long=True):
            return read(plan.data.config, url)

    return read_image


def has_images(content: object) -> bool:
    """Return True if the content of a message has parts with images."""
    return isinstance(content, list) and any(part.get("type") == "image_url" for part in content)


def parse_parts(content: list[dict[str, Any]]) -> Iterator[Part]:
    """Yield the parts of a user's message, with images that are not decoded yet.

    Raises:
        ApiError: a part with an image cannot be used.
        RowError: a part is neither text nor an image.
    """
    for part in content:
        if part.get("type") == "image_url":
            yield SentImage(_find_url(part))
        else:
            (message,) = parse_messages([{"role": "user", "content": [part]}], "messages")
            yield TextPart(message.text)


def _find_url(part: Mapping[str, Any]) -> str:
    value: Any = part.get("image_url")
    has_keys = part.keys() == {"type", "image_url"} and isinstance(value, dict)
    if not (has_keys and value.keys() <= {"url", "detail"} and isinstance(value.get("url"), str)):
        raise _refuse('an image must be {"type": "image_url", "image_url": {"url": "data:..."}}')
    if value.get("detail", "auto") != "auto":
        raise _refuse('only the detail "auto" of images is supported')
    url: str = value["url"]
    if not url.startswith("data:"):
        raise _refuse("images must be data: URLs, because the server opens no files or addresses")
    return url


def decode_images(
    prompt: Prompt | tuple[int, ...], read: ReadImage | None, most: int
) -> Prompt | tuple[int, ...]:
    """Return a prompt whose images are decoded.

    Raises:
        ApiError: an image cannot be used, there are more than ``most``, or the run has none.
    """
    messages = () if isinstance(prompt, str) else [m for m in prompt if isinstance(m, Message)]
    count = sum(isinstance(part, SentImage) for m in messages for part in m.media)
    if not count:
        return prompt
    if read is None:
        raise _refuse("the models of this run read only text")
    if count > most:
        raise _refuse(f"a conversation can have at most {most} images, got {count}")
    numbers = itertools.count(1)
    return tuple(
        replace(m, content=tuple(_decode(part, read, numbers) for part in m.content))
        if m.media
        else m
        for m in messages
    )


def _decode(part: Any, read: ReadImage, numbers: Iterator[int]) -> Part:
    if not isinstance(part, SentImage):
        assert isinstance(part, Part)
        return part
    number = next(numbers)
    try:
        return read(part.url)
    except DataError as error:
        raise _refuse(f"image {number}: {error.what}") from None


def _refuse(what: str) -> ApiError:
    return ApiError(400, f"messages: {what}", param="messages")
