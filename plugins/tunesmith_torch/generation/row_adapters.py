"""Let each row of a batch use its own adapter, so that a server's users share its steps.

A model with many adapters computes the products with its base weights once for all rows::

    rows              a        b        a        c
    base weights      one product for all rows
    adapters          A_a B_a  A_b B_b  A_a B_a  A_c B_c
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

__all__ = ["RowAdapter", "use_row_adapters"]


class RowAdapter(Protocol):
    """An adapter that a row of a batch can use. An adapter is equal only to itself."""

    def use(self, adapters: Sequence[Any]) -> AbstractContextManager[None]:
        """Let row ``n`` of a forward pass inside the block use ``adapters[n]``, of the same model.

        A single adapter is used for all rows. Outside of the block, the model has no adapter.
        """
        ...


def use_row_adapters(adapters: Sequence[RowAdapter | None]) -> AbstractContextManager[None]:
    """Let the rows of a forward pass use these adapters; all of them, or none, are None."""
    first = adapters[0] if adapters else None
    return nullcontext() if first is None else first.use(adapters)
