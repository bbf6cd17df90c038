"""The facts at the start of a GGUF file, read without any library and in no time.

The layout (GGUF specification, version 3, little endian): ``GGUF``, version, number of tensors,
number of entries; each entry is a key, a type and a value. Tensors follow: name, number of
dimensions, dimensions, type, offset. Lists, which hold the vocabulary, are
skipped over and leave only their length.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.errors import IntegrityError

_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_TEXT, _LIST = 8, 9
_LONGEST = 100_000_000
"""Bytes and items beyond which a length is damage, not data."""

_CONFIG_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}


TIED = "tied embeddings"
"""Key, not in the file itself: whether the head is the embedding, having no tensor of its own."""


def read_header(path: Path) -> dict[str, Any]:
    """Keys and values; a list is its length. And :data:`TIED`, from the names of the tensors.

    Raises:
        IntegrityError: this is not a GGUF file, or it ends too soon.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise IntegrityError(f"{path}: not a GGUF file", hint="fetch the file again")
        try:
            _, tensors, entries = struct.unpack("<IQQ", stream.read(20))
            header = dict(_entry(stream) for _ in range(min(entries, _LONGEST)))
            names = {_tensor(stream) for _ in range(min(tensors, _LONGEST))}
            return {**header, TIED: "output.weight" not in names}
        except (struct.error, ValueError, KeyError):
            raise IntegrityError(
                f"{path}: the header of this GGUF file cannot be read",
                hint="a download that broke off? Fetch the file again",
            ) from None


def config_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """What of a ``config.json`` can be told from the header."""
    architecture = header.get("general.architecture", "")
    config = {
        key: header[f"{architecture}.{name}"]
        for key, name in _CONFIG_KEYS.items()
        if f"{architecture}.{name}" in header
    }
    config.setdefault("vocab_size", header.get("tokenizer.ggml.tokens", 0))
    tied = bool(header.get(TIED, False))
    return {"model_type": architecture, **config, "tie_word_embeddings": tied}


def _entry(stream: BinaryIO) -> tuple[str, Any]:
    key = _text(stream)
    return key, _value(stream, _number(stream, "I"))


def _tensor(stream: BinaryIO) -> str:
    """The name of a tensor; its shape, type and place are skipped."""
    name = _text(stream)
    stream.seek(8 * _number(stream, "I") + 12, 1)
    return name


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(stream)
    if kind == _LIST:
        return _skip_list(stream)
    return _number(stream, _NUMBERS[kind])


def _skip_list(stream: BinaryIO) -> int:
    kind, length = _number(stream, "I"), _length(stream)
    if kind in _NUMBERS:
        stream.seek(length * struct.calcsize(_NUMBERS[kind]), 1)
        return length
    for _ in range(length):
        if kind == _TEXT:
            stream.seek(_length(stream), 1)
        else:
            _value(stream, kind)
    return length


def _text(stream: BinaryIO) -> str:
    return stream.read(_length(stream)).decode("utf-8", "replace")


def _length(stream: BinaryIO) -> int:
    length: int = _number(stream, "Q")
    if length > _LONGEST:
        raise ValueError(length)
    return length


def _number(stream: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", stream.read(struct.calcsize(form)))[0]
