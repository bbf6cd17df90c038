"""Tokenized examples in flat arrays, in memory or mapped from files.

A list of a million small arrays takes more memory than its tokens alone. So a store holds all
tokens end to end, and the length of each example. Here are two examples ``a`` and ``b`` of record 0
and one example ``c`` of record 2::

    ids        a0 a1 a2 b0 b1 c0        int32
    trained     0  1  1  0  1  1        bool
    weights     1  1  1  1 .5  1        float32; empty if all weights are 1
    lengths    3 2 1                    int64
    records    0 0 2                    int64

A store's files are memory-mapped: the system may drop their pages whenever memory is short.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from tunesmith_torch.data.packing import Example

__all__ = ["ExampleStore"]

CHUNK = 1000
"""Number of examples that are joined in one step."""

_DTYPES: Mapping[str, type[np.generic]] = {
    "ids": np.int32,
    "trained": np.bool_,
    "weights": np.float32,
    "lengths": np.int64,
    "records": np.int64,
}


class Examples(Sequence[Example], ABC):
    """A sequence of examples that creates each example on access."""

    @abstractmethod
    def make(self, row: int) -> Example:
        """Return the example with this index, which must be in ``range(len(self))``."""

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        rows = range(len(self))[index]
        return self.make(rows) if isinstance(rows, int) else [self.make(row) for row in rows]


@dataclass(frozen=True, eq=False)
class ExampleStore(Examples):
    """Examples stored end to end in flat arrays; each example is a view of them."""

    ids: NDArray[np.int32]
    """Token ids of all examples, end to end."""
    trained: NDArray[np.bool_]
    """True for each token that contributes to the loss."""
    weights: NDArray[np.float32]
    """Loss weight of each token; empty if no example has weights."""
    lengths: NDArray[np.int64]
    """Number of tokens of each example."""
    records: NDArray[np.int64]
    """Index of the record that each example was made from."""

    @classmethod
    def open(cls, folder: Path) -> ExampleStore:
        """Map the files written by :meth:`save` or a builder; they are read on access.

        Raises:
            OSError: a file is missing or cannot be read.
        """
        return cls(**{name: _map(_path(folder, name), name) for name in _DTYPES})

    def save(self, folder: Path) -> None:
        """Write the arrays to files in ``folder``."""
        for name in _DTYPES:
            getattr(self, name).tofile(_path(folder, name))

    def __len__(self) -> int:
        return len(self.lengths)

    def make(self, row: int) -> Example:
        """Return an example as a view of the arrays."""
        span = slice(int(self._starts[row]), int(self._starts[row + 1]))
        weights = self.weights[span] if len(self.weights) else None
        if weights is not None and (weights == 1).all():  # as if none had any
            weights = None
        return Example(self.ids[span], self.trained[span], weights)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Position of each example's first token, and the end of the last example."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])

    @property
    def tokens(self) -> int:
        """Number of tokens of all examples."""
        return len(self.ids)

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that contribute to the loss."""
        return int(np.count_nonzero(self.trained))


class ExampleStoreBuilder:
    """Builds a store by appending examples, in memory or in the files of a folder.

    With a folder, at most one chunk of examples is in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _DTYPES}
        self._pending: list[tuple[int, Example]] = []
        self._tokens = 0
        self._weighted = False

    def append(self, record: int, example: Example) -> None:
        """Add an example made from the record with this index."""
        self._pending.append((record, example))
        if len(self._pending) == CHUNK:
            self._join_pending()

    def extend(self, record: int, examples: Iterable[Example]) -> None:
        """Add all examples of a record."""
        for example in examples:
            self.append(record, example)

    def build(self) -> ExampleStore:
        """Return the store of all examples; the folder's files may be deleted afterwards."""
        self._join_pending()
        if self._folder is not None:
            return ExampleStore.open(self._folder)
        return ExampleStore(
            **{name: _concatenate(parts, name) for name, parts in self._parts.items()}
        )

    def _join_pending(self) -> None:
        arrays = dict(self._pending_arrays())
        for name, parts in self._parts.items():
            if self._folder is None:
                parts.append(arrays[name])
            else:
                with _path(self._folder, name).open("ab") as file:
                    arrays[name].tofile(file)
        self._pending = []

    def _pending_arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        examples = [example for _, example in self._pending]
        yield "ids", _concatenate([np.asarray(example.ids) for example in examples], "ids")
        trained = [np.asarray(example.trained) for example in examples]
        yield "trained", _concatenate(trained, "trained")
        yield "lengths", np.array([len(example) for example in examples], np.int64)
        yield "records", np.array([record for record, _ in self._pending], np.int64)
        weights: list[NDArray[Any]] = []
        if self._weighted or any(example.weights is not None for example in examples):
            # Weights are stored from the first example with weights on; earlier tokens get weight
            # 1.
            weights = [] if self._weighted else [np.ones(self._tokens, np.float32)]
            weights += [_weights_of(example) for example in examples]
            self._weighted = True
        yield "weights", _concatenate(weights, "weights")
        self._tokens += sum(map(len, examples))


def _weights_of(example: Example) -> NDArray[Any]:
    weights = example.weights
    return np.ones(len(example), np.float32) if weights is None else np.asarray(weights)


def _concatenate(arrays: Sequence[NDArray[Any]], name: str) -> NDArray[Any]:
    dtype = _DTYPES[name]
    return np.concatenate([np.zeros(0, dtype), *arrays], dtype=dtype, casting="unsafe")


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _map(path: Path, name: str) -> NDArray[Any]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, _DTYPES[name])
    return np.memmap(path, _DTYPES[name], mode="r")
