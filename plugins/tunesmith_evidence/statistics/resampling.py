"""Resample with numpy, using the same random draws as the standard library.

The draws depend only on their number and the seed, so they are cached: comparisons of many runs on
the same rows share them. Shapes: U units, C cells, R resamples, E tables of eight signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, TypeAlias

from tunesmith.statistics.intervals import MAX_CELLS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float64]

_CHUNK = 1 << 18  # draws per batch


def bootstrap_means(units: Sequence[tuple[float, float]], resamples: int, seed: int) -> list[float]:
    """Compute the same means as ``tunesmith.statistics.intervals.bootstrap_means``, with numpy.

    The results are equal up to rounding.
    """
    import numpy as np  # Lazy: commands that only show results must not load numpy.

    order_U, counts_RC = _draw_counts(len(units), resamples, seed)
    cells_C2 = np.asarray(units, dtype=np.float64)
    if len(units) > MAX_CELLS:
        shuffled_U2 = cells_C2[order_U]
        cells_C2 = np.stack([shuffled_U2[cell::MAX_CELLS].sum(axis=0) for cell in range(MAX_CELLS)])
    sums_R2 = counts_RC @ cells_C2
    means: list[float] = np.sort(sums_R2[:, 0] / sums_R2[:, 1]).tolist()
    return means


@lru_cache(maxsize=2)
def _draw_counts(units: int, resamples: int, seed: int) -> tuple[NDArray[np.int64], Matrix]:
    """Return the order of the units, and how often each resample contains each cell."""
    import numpy as np

    rng, order = Random(seed), [*range(units)]
    if units > MAX_CELLS:
        rng.shuffle(order)
    cells = min(units, MAX_CELLS)
    *key, position = rng.getstate()[1]
    generator = np.random.RandomState()  # continues from the Mersenne Twister state of ``rng``
    generator.set_state(("MT19937", np.array(key, dtype=np.uint32), position, 0, 0.0))
    counts_RC = np.empty((resamples, cells))
    step = max(1, _CHUNK // cells)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = (generator.random_sample((rows, cells)) * cells).astype(np.int64)
        draws += np.arange(rows)[:, None] * cells
        counted = np.bincount(draws.ravel(), minlength=rows * cells)
        counts_RC[start : start + rows] = counted.reshape(rows, cells)
    return np.asarray(order), counts_RC


def draw_signed_sums(tables: Sequence[Sequence[float]], resamples: int, seed: int) -> Matrix:
    """Return ``resamples`` sums, each of one random entry per table of 256 entries."""
    import numpy as np

    bytes_ER = _draw_bytes(len(tables), resamples, seed)
    sums_R = np.zeros(resamples)
    for table, bytes_R in zip(tables, bytes_ER, strict=True):
        sums_R += np.asarray(table)[bytes_R]
    return sums_R


@lru_cache(maxsize=2)
def _draw_bytes(tables: int, resamples: int, seed: int) -> NDArray[np.uint8]:
    import numpy as np

    rng = Random(seed)
    drawn = b"".join(rng.randbytes(tables) for _ in range(resamples))
    return np.frombuffer(drawn, dtype=np.uint8).reshape(resamples, tables).T
