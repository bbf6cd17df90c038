"""Contracts of encoders, which turn texts into vectors; this module does not import NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Vectors(Protocol):
    """One vector per text: an array of floats, or a list of rows; ``numpy.asarray`` reads both."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Any: ...


class Encoder(Protocol):
    """Turns texts into vectors; similar meanings give vectors with a large dot product."""

    def encode(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> Vectors:
        """Return a vector of length 1 for each text, all with the same number of dimensions.

        A vector does not depend on the other texts. An empty text gets a vector too.
        """
        ...
