"""Sizes of the parts: how many rows are held out, and how many are for choices."""

from __future__ import annotations

from math import isfinite

MAX_DEFAULT_HOLDOUT_ROWS = 500
"""Upper limit of the default held-out part, which is a fifth of the data."""
MIN_DEV_ROWS, MAX_DEV_ROWS = 20, 200
"""Limits of the default dev part, which is a tenth of the rows that are not held out."""
MIN_ROWS_FOR_DEV = 100
"""Rows below which none are set aside by default: too few would be left to learn from."""


def holdout_rows(holdout: float | int | None, total: int) -> int:
    """Return the number of rows to hold out; a share is rounded, but never to 0 or to all rows.

    Raises:
        ValueError: there are too few rows; the caller names the option.
    """
    if holdout is None:
        holdout = min(MAX_DEFAULT_HOLDOUT_ROWS, max(1, round(0.2 * total)))
    if total < 2:
        raise ValueError(f"splitting needs at least 2 records, got {total}")
    if isinstance(holdout, bool) or not isfinite(holdout) or holdout <= 0:
        raise ValueError(f"must be a share in (0, 1) or a count from 1, got {holdout}")
    if isinstance(holdout, int):
        if holdout >= total:
            raise ValueError(f"leaves nothing to train on, got {holdout:,} of {total:,} records")
        return holdout
    if holdout >= 1:
        raise ValueError(
            f"must be a share below 1, or an integer for a number of rows, got {holdout}"
        )
    return min(max(round(holdout * total), 1), total - 1)


def dev_rows(dev: float | int | None, total: int, *, needed: bool) -> int:
    """Return the number of dev rows among ``total`` rows that are not held out.

    ``needed``: there must be some by default even if there are few rows.

    Raises:
        ValueError: nothing would be left to train on; the caller names the option.
    """
    if dev is not None:
        rows = round(dev * total) if isinstance(dev, float) else dev
        if rows >= total:
            raise ValueError(f"leaves nothing to train on, got {rows:,} of {total:,} records")
        return rows
    if total >= MIN_ROWS_FOR_DEV:
        return min(max(round(0.1 * total), MIN_DEV_ROWS), MAX_DEV_ROWS)
    return min(max(round(0.2 * total), 1), total - 1) if needed else 0
