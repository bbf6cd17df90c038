"""Compute the number of test rows and validation rows."""

from __future__ import annotations

from math import isfinite

__all__ = ["count_test_rows", "count_validation_rows"]

MAX_DEFAULT_TEST_ROWS = 500
"""Maximum default number of test rows, which is otherwise a fifth of the data."""
MIN_VALIDATION_ROWS, MAX_VALIDATION_ROWS = 20, 200
"""Limits of the default number of validation rows, which is a tenth of the remaining rows."""
MIN_ROWS_FOR_VALIDATION = 100
"""With fewer rows besides the test rows, no validation rows are set aside by default."""


def count_test_rows(test_size: float | int | None, total: int) -> int:
    """Return the number of test rows; a share is rounded, but never to 0 or to all rows.

    Raises:
        ValueError: the size is invalid or there are too few rows; the caller adds the option's
            name.
    """
    if test_size is None:
        test_size = min(MAX_DEFAULT_TEST_ROWS, max(1, round(0.2 * total)))
    if total < 2:
        raise ValueError(f"splitting needs at least 2 rows, got {total}")
    if isinstance(test_size, bool) or not isfinite(test_size) or test_size <= 0:
        raise ValueError(
            f"must be a share between 0 and 1, or a number of rows (1 or more), got {test_size}"
        )
    if isinstance(test_size, int):
        if test_size >= total:
            raise ValueError(f"leaves no rows to train on, got {test_size:,} of {total:,} rows")
        return test_size
    if test_size >= 1:
        raise ValueError(
            f"must be a share below 1, or an integer for a number of rows, got {test_size}"
        )
    return min(max(round(test_size * total), 1), total - 1)


def count_validation_rows(validation: float | int | None, total: int, *, needed: bool) -> int:
    """Return the number of validation rows.

    Args:
        validation: share or number of rows; None for the default.
        total: number of rows that are not test rows.
        needed: use some validation rows by default even in small data.

    Raises:
        ValueError: no rows would be left to train on; the caller adds the option's name.
    """
    if validation is not None:
        rows = round(validation * total) if isinstance(validation, float) else validation
        if rows >= total:
            raise ValueError(f"leaves no rows to train on, got {rows:,} of {total:,} rows")
        return rows
    if total >= MIN_ROWS_FOR_VALIDATION:
        return min(max(round(0.1 * total), MIN_VALIDATION_ROWS), MAX_VALIDATION_ROWS)
    return min(max(round(0.2 * total), 1), total - 1) if needed else 0
