"""Read the header of a GGUF file without a library and without reading the tensors.

The layout (GGUF specification, version 3, little endian)::

    GGUF, version, number of tensors, number of entries
    each entry    key, type, value
    each tensor   name, number of dimensions, dimensions, type, offset

Arrays, such as the vocabulary, are skipped, and only their lengths are kept.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.errors import IntegrityError

_NUMBER_FORMATS = {
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
_STRING, _ARRAY = 8, 9
_MAX_LENGTH = 100_000_000
"""Maximum number of bytes or items in a value; a larger length means that the file is damaged."""

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

TIED_EMBEDDINGS = "tied embeddings"
"""A key that is added to the header: True if the output head shares the embedding's tensor."""


def read_header(path: Path) -> dict[str, Any]:
    """Return the metadata as a dict, with arrays replaced by their lengths.

    The additional key :data:`TIED_EMBEDDINGS` is True if the file has no tensor for the output
    head.

    Raises:
        IntegrityError: the file is not a GGUF file, or its header is incomplete.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise IntegrityError(f"{path}: this is not a GGUF file", hint="download the file again")
        try:
            _, tensors, entries = struct.unpack("<IQQ", stream.read(20))
            header = dict(_read_entry(stream) for _ in range(min(entries, _MAX_LENGTH)))
            names = {_read_tensor_name(stream) for _ in range(min(tensors, _MAX_LENGTH))}
            return {**header, TIED_EMBEDDINGS: "output.weight" not in names}
        except (struct.error, ValueError, KeyError):
            raise IntegrityError(
                f"{path}: the header of this GGUF file cannot be read",
                hint="download the file again",
            ) from None


def config_from_header(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a ``config.json`` that the header determines."""
    architecture = header.get("general.architecture", "")
    config = {
        key: header[f"{architecture}.{name}"]
        for key, name in _CONFIG_KEYS.items()
        if f"{architecture}.{name}" in header
    }
    config.setdefault("vocab_size", header.get("tokenizer.ggml.tokens", 0))
    tied = bool(header.get(TIED_EMBEDDINGS, False))
    return {"model_type": architecture, **config, "tie_word_embeddings": tied}


def _read_entry(stream: BinaryIO) -> tuple[str, Any]:
    key = _read_string(stream)
    return key, _read_value(stream, _read_number(stream, "I"))


def _read_tensor_name(stream: BinaryIO) -> str:
    """Read a tensor's name, and skip its shape, type and offset."""
    name = _read_string(stream)
    stream.seek(8 * _read_number(stream, "I") + 12, 1)
    return name


def _read_value(stream: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _read_string(stream)
    if kind == _ARRAY:
        return _skip_array(stream)
    return _read_number(stream, _NUMBER_FORMATS[kind])


def _skip_array(stream: BinaryIO) -> int:
    kind, length = _read_number(stream, "I"), _read_length(stream)
    if kind in _NUMBER_FORMATS:
        stream.seek(length * struct.calcsize(_NUMBER_FORMATS[kind]), 1)
        return length
    for _ in range(length):
        if kind == _STRING:
            stream.seek(_read_length(stream), 1)
        else:
            _read_value(stream, kind)
    return length


def _read_string(stream: BinaryIO) -> str:
    return stream.read(_read_length(stream)).decode("utf-8", "replace")


def _read_length(stream: BinaryIO) -> int:
    length: int = _read_number(stream, "Q")
    if length > _MAX_LENGTH:
        raise ValueError(length)
    return length


def _read_number(stream: BinaryIO, number_format: str) -> Any:
    return struct.unpack(f"<{number_format}", stream.read(struct.calcsize(number_format)))[0]
