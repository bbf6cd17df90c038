"""Convert values of database rows and typed files to JSON types."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Mapping

from tunesmith_data.row import Fields, RowError

_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


def to_json_fields(row: Mapping[str, object], max_row_bytes: int) -> Fields | RowError:
    """Convert a typed row to JSON types: dates, times, decimals and UUIDs become text.

    Other values stay unchanged, and are rejected if their column is used.

    Returns:
        The converted row, or an error if it has more than ``max_row_bytes`` characters of text.
    """
    if sum(len(value) for value in row.values() if isinstance(value, str)) > max_row_bytes:
        hint = "raise data.max_row_bytes if you expect rows of this size"
        return RowError(f"row larger than {max_row_bytes:,} bytes", hint=hint)
    return {k: str(v) if isinstance(v, _AS_TEXT) else v for k, v in row.items()}
