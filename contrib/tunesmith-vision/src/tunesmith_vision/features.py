"""Virtual token ids: each feature of each image has its own id, above the vocabulary.

The ids of a row therefore determine everything that the model reads. Packing, shared prefixes,
the cache of keys and values, scoring and generation treat images as any other tokens::

    text            Which  [     image a     ]  or  [     image b     ]  ?
    ids               812   V+0  V+1 ... V+24   303  V+25  ...   V+49   31       V: vocabulary
    embeddings       table  projector(features)  table  projector(...)  table

A virtual id is never a target: it stands only in prompts, and the output head has no row for it.

Before a conversation reaches the chat template, each image becomes a single private-use character,
its *sign*. The template copies the sign like any other character, and :class:`ImageEncoder` turns
it into the ids.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import RLock
from weakref import ref

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tunesmith.errors import DataError, IntegrityError, UsageError
from tunesmith.plugins import cache_folder
from tunesmith.records import (
    Answer,
    Chat,
    Message,
    Part,
    Prompt,
    Record,
    TextPart,
    exchanges,
    prompt_text,
)
from tunesmith.storage import write_atomic
from tunesmith_data import MEDIA_SIGNS
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenization import SpanEncoder, TextSpan
from tunesmith_vision.images import Image, find_images, open_picture
from tunesmith_vision.towers import FEATURE, Tower

__all__ = [
    "FeatureTable",
    "ImageEmbedding",
    "ImageEncoder",
    "ImageTemplate",
    "as_prompt",
    "as_record",
]

FIRST_SIGN, MAX_IMAGES = 0x100000, 0xFFF0
_SIGN = re.compile(f"([{chr(FIRST_SIGN)}-{chr(FIRST_SIGN + MAX_IMAGES - 1)}])")


class FeatureTable:
    """The images of a run or a server: their signs, their token ids and their features.

    An image is forgotten when nothing refers to any of its parts, unless it was passed to
    :meth:`keep`. A server can therefore answer any number of requests, one image after another.
    """

    def __init__(self, tower: Tower, vocabulary: int) -> None:
        """Start without images; virtual ids start at ``vocabulary``."""
        self.tower, self.vocabulary = tower, vocabulary
        # A server encodes prompts in another thread than the model's, and the last reference to an
        # image may go away in either.
        self._lock = RLock()
        self._known: dict[int, _KnownImage] = {}
        self._numbers: dict[str, int] = {}
        self._free: deque[int] = deque()
        """Numbers of forgotten images."""
        self._order: list[int] = []
        """Numbers of the known images in the order of their virtual ids."""
        self._starts: list[int] = []
        """First virtual id of each of them, without the vocabulary."""
        self._next = 0

    def sign(self, image: Image) -> str:
        """Return the character that stands for an image."""
        return chr(FIRST_SIGN + self.number(image))

    def number(self, image: Image) -> int:
        """Return the number of an image, which gets its ids on first use.

        Raises:
            UsageError: there are too many images.
        """
        reference = ref(image, partial(self._release, image.sha256, id(image)))
        with self._lock:
            number = self._numbers.get(image.sha256)
            if number is None:
                number = self._add(image)
            self._known[number].parts[id(image)] = reference
            return number

    def keep(self, image: Image) -> None:
        """Remember an image as long as this table lives."""
        self._known[self.number(image)].kept = image

    def _add(self, image: Image) -> int:
        layout = self.tower.layout(image)
        number = self._free.popleft() if self._free else len(self._known)
        if number == MAX_IMAGES:
            raise UsageError(f"at most {MAX_IMAGES:,} distinct images can be used at a time")
        start = next_id = self.vocabulary + self._next
        ids = []
        for token in layout:
            ids.append(next_id if token == FEATURE else token)
            next_id += token == FEATURE
        self._known[number] = _KnownImage(tuple(ids), next_id - start)
        self._numbers[image.sha256] = number
        self._order.append(number)
        self._starts.append(self._next)
        self._next += next_id - start  # an id never stands for a second image
        return number

    def _release(self, sha256: str, part: int, reference: ref[Image]) -> None:
        """Forget an image if its last part is gone."""
        with self._lock:
            number = self._numbers[sha256]
            parts = self._known[number].parts
            if parts.get(part) is reference:  # otherwise, a newer part has the same id
                del parts[part]
            if parts:
                return
            del self._numbers[sha256], self._known[number]
            place = self._order.index(number)
            del self._order[place], self._starts[place]
            self._free.append(number)

    def image(self, number: int) -> Image:
        """Return an image by its number."""
        parts = (reference() for reference in [*self._known[number].parts.values()])
        return next(image for image in parts if image is not None)

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self._known)

    def ids(self, sign: str) -> tuple[int, ...]:
        """Return the token ids of the image with this sign."""
        return self._known[ord(sign) - FIRST_SIGN].ids

    @property
    def rows(self) -> int:
        """Number of features of all images."""
        return sum(known.rows for known in self._known.values())

    def locate(self, ids_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of each virtual id's image, and the id's place in it, on the CPU."""
        with self._lock:
            starts, order = torch.tensor(self._starts), torch.tensor(self._order)
        rows_N = ids_N.cpu() - self.vocabulary
        places_N = torch.searchsorted(starts, rows_N, right=True) - 1
        return order[places_N], rows_N - starts[places_N]

    def lookup(self, ids_N: Tensor) -> Tensor:
        """Return the features of virtual ids, [N, width], on the device of the tower."""
        numbers_N, places_N = self.locate(ids_N)
        used, order_N = numbers_N.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        blocks = [self.features(number) for number in used.tolist()]
        lengths = torch.tensor([*map(len, blocks)])
        if (places_N >= lengths[order_N]).any():
            raise IntegrityError("a prompt has an image that is not known any more")
        offsets = lengths.cumsum(0) - lengths
        features_NF = torch.cat(blocks)
        return features_NF[(offsets[order_N] + places_N).to(features_NF.device)]

    def features(self, number: int) -> Tensor:
        """Return the features of an image, [tokens, width].

        They come from memory, the disk or the tower; from a tower in training, with gradients.

        Raises:
            IntegrityError: the image has changed, or its features are not those that its size
                promises.
        """
        image, known = self.image(number), self._known[number]
        if self.tower.is_trained:
            return self._check(image, known, self._compute(image))
        if known.features is None:
            known.features = self._check(image, known, self._find_features(image))
        return known.features

    def _find_features(self, image: Image) -> Tensor:
        """Return features from the disk, or compute them."""
        if image.data is not None:
            return self.tower.encode(open_picture(image))
        name = f"{image.sha256}.safetensors"
        path = cache_folder() / "vision" / self.tower.digest[:16] / name
        found = _read_features(path)
        if found is None:
            found = self.tower.encode(open_picture(image))
            _write_features(path, found)
        return found

    def _compute(self, image: Image) -> Tensor:
        inputs = self.tower.prepare(open_picture(image))
        device = next(self.tower.module.parameters()).device
        return self.tower.compute({name: tensor.to(device) for name, tensor in inputs.items()})

    def _check(self, image: Image, known: _KnownImage, features: Tensor) -> Tensor:
        expected = (known.rows, self.tower.width)
        if features.shape != expected:
            raise IntegrityError(
                f"{image.path}: has features of shape {[*features.shape]}, expected {[*expected]}"
            )
        return features


@dataclass(eq=False)
class _KnownImage:
    """An image of a table."""

    ids: tuple[int, ...]
    rows: int
    """Number of features."""
    parts: dict[int, ref[Image]] = field(default_factory=dict)
    """The parts of messages with this image."""
    features: Tensor | None = None
    kept: Image | None = None


def _read_features(path: Path) -> Tensor | None:
    try:
        return load(path.read_bytes())["features"]
    except (OSError, KeyError, SafetensorError):
        return None


def _write_features(path: Path, features: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save({"features": features}))


class ImageEmbedding(nn.Module):
    """The text model's embeddings, and those of images for virtual ids."""

    def __init__(self, text: nn.Module, projector: nn.Module, table: FeatureTable) -> None:
        super().__init__()
        self.text, self.projector, self.table = text, projector, table
        self.tower = table.tower.module if table.tower.is_trained else None

    def train(self, mode: bool = True) -> ImageEmbedding:
        """Set the mode; statistics of normalization layers in the tower never change."""
        super().train(mode)
        if self.tower is not None:
            self.tower.eval()
        return self

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return the embedding of each token, [B, T, D]."""
        is_image_BT = ids_BT >= self.table.vocabulary
        text_BTD: Tensor = self.text(ids_BT.masked_fill(is_image_BT, 0))
        if not is_image_BT.any():
            return text_BTD
        features_NF = self.table.lookup(ids_BT[is_image_BT])
        image_ND = self.projector(features_NF.to(text_BTD.device)).to(text_BTD.dtype)
        return text_BTD.masked_scatter(is_image_BT[..., None], image_ND)


@dataclass(frozen=True)
class ImageEncoder(SpanEncoder):
    """An encoder that turns the signs of images into their ids; an image is never cut or split."""

    table: FeatureTable

    @classmethod
    def add_to(cls, template: Template, table: FeatureTable) -> Template:
        """Return the template with images."""
        if isinstance(template.encoder, cls):
            return template
        return replace(template, encoder=cls(**vars(template.encoder), table=table))

    def encode(self, rows: Sequence[Sequence[TextSpan]]) -> list[list[list[int]]]:
        """Return the ids of every span of every row.

        Raises:
            DataError: an image stands in a text that the model must generate.
        """
        pieces = [[self._pieces(span) for span in row] for row in rows]
        encoded = super().encode([[piece for span in row for piece in span] for row in pieces])
        out: list[list[list[int]]] = []
        for row, ids in zip(pieces, encoded, strict=True):
            left = iter(ids)
            out.append([[i for _ in span for i in next(left)] for span in row])
        return out

    def _pieces(self, span: TextSpan) -> list[TextSpan]:
        """Split a span at its images, whose ids follow the text before them."""
        texts = _SIGN.split(span.text)
        if len(texts) == 1:
            return [span]
        if span.trained:
            raise DataError("conversation", "an image stands in an answer")
        pieces = [
            span._replace(text=text, at_start=span.at_start and at == 0, following_ids=())
            for at, text in enumerate(texts[::2])
        ]
        for at, sign in enumerate(texts[1::2]):
            pieces[at] = pieces[at]._replace(following_ids=self.table.ids(sign))
        pieces[-1] = pieces[-1]._replace(following_ids=span.following_ids)
        return pieces


@dataclass(frozen=True)
class ImageTemplate(Template):
    """A template for prompts that may have images."""

    table: FeatureTable

    @classmethod
    def of(cls, template: Template, table: FeatureTable) -> ImageTemplate:
        """Return the template with images."""
        return cls(**vars(ImageEncoder.add_to(template, table)), table=table)

    def encode_prompts(
        self, prompts: Sequence[Prompt], sources: Sequence[str] = ()
    ) -> list[list[int]]:
        """Return the token ids of many prompts, tokenized together.

        Raises:
            DataError: the template rejects a prompt, or a text has a character that stands for
                images.
        """
        return super().encode_prompts([*map(self._sign, prompts)], sources)

    def encode_exchanges(
        self, prompts: Sequence[Prompt], answers: Sequence[Answer], sources: Sequence[str] = ()
    ) -> list[tuple[list[int], list[int]]]:
        """Return the token ids of many prompts and of one answer to each, tokenized together.

        Raises:
            DataError: the template rejects a prompt with its answer, or a text has a character that
                stands for images.
        """
        return super().encode_exchanges([*map(self._sign, prompts)], answers, sources)

    def _sign(self, prompt: Prompt) -> Prompt:
        signed = as_prompt(prompt, self.table)
        for image in find_images(prompt):
            # At once, so that an image of a client that cannot be computed ends only its request.
            if image.data is not None:
                self.table.features(self.table.number(image))
        return signed


def as_prompt(prompt: Prompt, table: FeatureTable) -> Prompt:
    """Return a prompt with signs in place of its images.

    Raises:
        DataError: a text has a character that stands for images.
    """
    if isinstance(prompt, str):
        _refuse_signs("a prompt", prompt)
        return prompt
    return _messages("a prompt", prompt, table)


def as_record(record: Record, table: FeatureTable) -> Record:
    """Return a record with signs in place of its images, which the table keeps.

    Raises:
        DataError: a text has a character that stands for images.
    """
    if isinstance(record, Chat):
        for image in find_images(record.messages):
            table.keep(image)
        return replace(record, messages=_messages(record.source, record.messages, table))
    for prompt, answer in exchanges(record):
        _refuse_signs(record.source, prompt_text(prompt), answer.text)
    return record


def _refuse_signs(where: str, *texts: str) -> None:
    """Refuse characters that would be replaced by the features of any image."""
    if any(map(MEDIA_SIGNS.search, texts)):
        hint = "remove the characters from U+100000 on"
        raise DataError(where, "has a character that stands for images", hint=hint)


def _messages(where: str, messages: Sequence[Message], table: FeatureTable) -> tuple[Message, ...]:
    for message in messages:
        calls = [text for call in message.tool_calls for text in (call.name, call.arguments)]
        # Everything else that a chat template may print; images are shown as their digests.
        _refuse_signs(
            where, message.shown_text, message.reasoning, message.name, *message.tools, *calls
        )
    return tuple(
        replace(message, content=tuple(_sign(part, table) for part in message.content))
        if message.media
        else message
        for message in messages
    )


def _sign(part: object, table: FeatureTable) -> Part:
    if isinstance(part, Image):
        return TextPart(table.sign(part))
    if not isinstance(part, TextPart):
        raise DataError("a message", f"has a part of type {type(part).__name__}")
    return part
