"""Offer of ``sql``: its summary and its factory."""

from __future__ import annotations

import re

from tunesmith.contracts import DataLoader
from tunesmith.offers import DataLoaderOffer
from tunesmith_plugins.loaders.sql.options import SqlOptions

_QUERY = re.compile(r"\s*(select|with)\s", re.IGNORECASE)


def build(options: SqlOptions) -> DataLoader:
    """Build the loader of a query."""
    from tunesmith_data import require_library
    from tunesmith_plugins.loaders.sql.loader import SqlLoader

    require_library("sqlalchemy", "data loader sql", extra="sql")
    return SqlLoader(options)


def recognizes(name: str) -> bool:
    """Return True for a query."""
    return _QUERY.match(name) is not None


SQL = DataLoaderOffer(
    name="sql",
    summary="the result of a query: SQLite, PostgreSQL and what SQLAlchemy knows",
    config=SqlOptions,
    build=build,
    needs=("sqlalchemy>=2.0",),
    recognizes=recognizes,
)
