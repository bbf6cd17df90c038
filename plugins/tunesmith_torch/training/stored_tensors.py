"""Write and read tensors in safetensors files. Each file may hold only some of the rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tunesmith_torch.runtime import sharding

_ROWS = "rows"
"""Metadata key of a file: each part's first row, and the number of rows of the whole tensor."""


class _Part(NamedTuple):
    """Some rows of a tensor, in an open file."""

    file: Any
    start: int
    stop: int
    total: int
    """Number of rows of the complete tensor."""


def save_local_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file; for sharded tensors, write the rows of this rank."""
    rows = {
        name: [sharding.find_first_local_row(tensor), len(tensor)]
        for name, tensor in tensors.items()
        if sharding.get_local_part(tensor) is not tensor
    }
    parts = {name: sharding.get_local_part(tensor).contiguous() for name, tensor in tensors.items()}
    save_file(parts, path, {_ROWS: json.dumps(rows)} if rows else None)


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of several files, by name, for use in a ``with`` block.

    A tensor ``PART.NAME`` with the shape of ``like[NAME]`` is returned sharded like that tensor,
    and only the rows of this rank are read.
    """

    def __init__(self, files: Iterable[Path], like: Mapping[str, Tensor]) -> None:
        self._like = like
        self._parts: dict[str, list[_Part]] = {}
        self._stack = ExitStack()
        self._files = list(files)

    def __enter__(self) -> StoredTensors:
        try:
            for path in self._files:
                self._add_file(self._stack.enter_context(safe_open(path, framework="pt")))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._parts = {}
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, name: str) -> Tensor:
        """Return the tensor of this name, or this rank's rows of it if it is sharded.

        Raises:
            KeyError: no file has this tensor.
            ValueError: the files lack some of its rows.
        """
        parts = self._parts[name]
        like = self._like.get(name.partition(".")[2])
        rest = parts[0].file.get_slice(name).get_shape()[1:]
        if like is None or not like.ndim or [parts[0].total, *rest] != list(like.shape):
            return self._read_rows(name, 0, parts[0].total)
        start = sharding.find_first_local_row(like)
        stop = start + len(sharding.get_local_part(like))
        return sharding.shard_like(self._read_rows(name, start, stop), like)

    def _add_file(self, file: Any) -> None:
        rows = json.loads((file.metadata() or {}).get(_ROWS, "{}"))
        for name in file.keys():  # noqa: SIM118 - no dictionary
            shape = file.get_slice(name).get_shape()
            length = shape[0] if shape else 1
            start, total = rows.get(name, (0, length))
            self._parts.setdefault(name, []).append(_Part(file, start, start + length, total))

    def _read_rows(self, name: str, start: int, stop: int) -> Tensor:
        parts = sorted(self._parts[name], key=lambda part: part.start)
        if (parts[0].start, parts[0].stop) == (start, stop):
            tensor: Tensor = parts[0].file.get_tensor(name)
            return tensor
        pieces, position = [], start
        for part in parts:
            first, last = max(position, part.start), min(stop, part.stop)
            if first != position or first >= last:
                continue
            pieces.append(part.file.get_slice(name)[first - part.start : last - part.start])
            position = last
        if position != stop:
            raise ValueError(f"no file has rows {position} to {stop} of {name}")
        if not pieces:
            pieces = [parts[0].file.get_slice(name)[:0]]
        return torch.cat(pieces)
