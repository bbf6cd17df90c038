"""Clusters of records that are not split, such as test rows in a file of their own."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.records import Record
from tunesmith_data.splits.clusters import find_clusters
from tunesmith_data.splits.rows import RowTable


def cluster_records(records: Sequence[Record]) -> list[int]:
    """Return the cluster of each record: see :func:`find_clusters`.

    A split makes no cluster of more than a fifth of the rows, because it has to divide them. Here a
    cluster may have half of the rows; prompts that more of them share are an instruction.
    """
    table = RowTable(seed=0)
    for record in records:
        table.add(record)
    table.finish()
    clusters = find_clusters(table, records, near_duplicates=None, limit=max(1, len(table) // 2))
    found: list[int] = clusters.of_row.tolist()
    return found
