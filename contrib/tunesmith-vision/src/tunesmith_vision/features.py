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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tunesmith.errors import DataError, IntegrityError, UsageError
from tunesmith.plugins import cache_folder
from tunesmith.records import (
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
from tunesmith_vision.images import Image, open_picture
from tunesmith_vision.towers import FEATURE, Tower

__all__ = ["FeatureTable", "ImageEmbedding", "ImageEncoder", "as_prompt", "as_record"]

FIRST_SIGN, MAX_IMAGES = 0x100000, 0xFFF0
_SIGN = re.compile(f"([{chr(FIRST_SIGN)}-{chr(FIRST_SIGN + MAX_IMAGES - 1)}])")


class FeatureTable:
    """The images of a run: their signs, their token ids and their features."""

    def __init__(self, tower: Tower, vocabulary: int) -> None:
        """Start without images; virtual ids start at ``vocabulary``."""
        self.tower, self.vocabulary = tower, vocabulary
        self.images: list[Image] = []
        self._numbers: dict[str, int] = {}
        self._ids: list[tuple[int, ...]] = []
        self._starts: list[int] = [0]
        self._features: dict[int, Tensor] = {}

    def sign(self, image: Image) -> str:
        """Return the character that stands for an image."""
        return chr(FIRST_SIGN + self.number(image))

    def number(self, image: Image) -> int:
        """Return the number of an image, which gets its ids on first use.

        Raises:
            UsageError: there are too many images.
        """
        number = self._numbers.get(image.sha256)
        if number is None:
            number = len(self.images)
            if number == MAX_IMAGES:
                raise UsageError(f"a run can use at most {MAX_IMAGES:,} distinct images")
            layout = self.tower.layout(image)
            next_id = self.vocabulary + self._starts[-1]
            ids = []
            for token in layout:
                ids.append(next_id if token == FEATURE else token)
                next_id += token == FEATURE
            self._numbers[image.sha256] = number
            self.images.append(image)
            self._ids.append(tuple(ids))
            self._starts.append(next_id - self.vocabulary)
        return number

    def ids(self, sign: str) -> tuple[int, ...]:
        """Return the token ids of the image with this sign."""
        return self._ids[ord(sign) - FIRST_SIGN]

    @property
    def rows(self) -> int:
        """Number of features of all images."""
        return self._starts[-1]

    def locate(self, ids_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of each virtual id's image, and the id's place in it, on the CPU."""
        rows_N = ids_N.cpu() - self.vocabulary
        starts = torch.tensor(self._starts)
        numbers_N = torch.searchsorted(starts, rows_N, right=True) - 1
        return numbers_N, rows_N - starts[numbers_N]

    def lookup(self, ids_N: Tensor) -> Tensor:
        """Return the features of virtual ids, [N, width], on the device of the tower."""
        numbers_N, places_N = self.locate(ids_N)
        used, order_N = numbers_N.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        blocks = [self.features(number) for number in used.tolist()]
        offsets = torch.tensor([0, *map(len, blocks)]).cumsum(0)
        features_NF = torch.cat(blocks)
        return features_NF[(offsets[order_N] + places_N).to(features_NF.device)]

    def features(self, number: int) -> Tensor:
        """Return the features of an image, [tokens, width].

        They come from memory, the disk or the tower; from a tower in training, with gradients.

        Raises:
            IntegrityError: the image has changed, or its features are not those that its size
                promises.
        """
        if self.tower.is_trained:
            return self._check(number, self._compute(number))
        if number not in self._features:
            name = f"{self.images[number].sha256}.safetensors"
            path = cache_folder() / "vision" / self.tower.digest[:16] / name
            found = _read_features(path)
            if found is None:
                found = self.tower.encode(open_picture(self.images[number]))
                _write_features(path, found)
            self._features[number] = self._check(number, found)
        return self._features[number]

    def _compute(self, number: int) -> Tensor:
        inputs = self.tower.prepare(open_picture(self.images[number]))
        device = next(self.tower.module.parameters()).device
        return self.tower.compute({name: tensor.to(device) for name, tensor in inputs.items()})

    def _check(self, number: int, features: Tensor) -> Tensor:
        expected = (self._starts[number + 1] - self._starts[number], self.tower.width)
        if features.shape != expected:
            raise IntegrityError(
                f"{self.images[number].path}: has features of shape {[*features.shape]}, expected "
                f"{[*expected]}"
            )
        return features


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
    """Return a record with signs in place of its images.

    Raises:
        DataError: a text has a character that stands for images.
    """
    if isinstance(record, Chat):
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
