"""Union-find over row numbers, stored in an array with four bytes per row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class DisjointSets:
    """Disjoint sets of rows. The root of a set is its smallest row."""

    def __init__(self, rows: int) -> None:
        self._parent = np.arange(rows, dtype=np.int32)

    def join(self, one: int, other: int) -> bool:
        """Merge the sets of two rows; return True if they were different sets."""
        first, second = sorted((self._find(one), self._find(other)))
        self._parent[second] = first
        return first != second

    def roots(self) -> npt.NDArray[np.int32]:
        """Return the root of each row's set; rows with equal roots belong together."""
        parent = self._parent
        while True:
            grandparent = parent[parent]
            if np.array_equal(grandparent, parent):
                break
            parent = grandparent
        self._parent = parent
        return parent

    def _find(self, row: int) -> int:
        parent = self._parent
        while (above := int(parent[row])) != row:
            parent[row] = parent[above]
            row = above
        return row
