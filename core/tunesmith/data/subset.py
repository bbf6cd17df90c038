"""A part of a sequence of records, without copying them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Subset(Sequence[T]):
    """Some items of a sequence, by ``indices``. Items are not copied, and are read when needed."""

    items: Sequence[T]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        found = self.indices[index]
        return Subset(self.items, found) if isinstance(index, slice) else self.items[found]

    def __iter__(self) -> Iterator[T]:
        return map(self.items.__getitem__, self.indices)
