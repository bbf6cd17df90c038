"""Rows of databases and typed files: convert their values to the types of JSON."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Mapping

from tunesmith_data.row import Fields, RowError

_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


def plain_fields(row: Mapping[str, object], max_row_bytes: int) -> Fields | RowError:
    """Return a typed row with the types of JSON: dates and decimal numbers become text.

    A row with more than ``max_row_bytes`` characters is an error. Other values stay what they are:
    they are refused if their column is used.
    """
    if sum(len(value) for value in row.values() if isinstance(value, str)) > max_row_bytes:
        hint = "raise max_row_bytes if rows of this size are expected"
        return RowError(f"row larger than {max_row_bytes:,} bytes", hint=hint)
    return {k: str(v) if isinstance(v, _AS_TEXT) else v for k, v in row.items()}
