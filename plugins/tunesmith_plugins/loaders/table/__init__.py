"""Data loader ``table``: CSV and TSV files with a header line, Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import DataLoaderOffer


@hookimpl
def tunesmith_data_loaders() -> Sequence[DataLoaderOffer[Any]]:
    """Offer ``[data] use = "table"``."""
    from tunesmith_plugins.loaders.table.offer import TABLE

    return [TABLE]
