"""Cluster records that are not split, such as test rows from a separate file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tunesmith.records import Record
from tunesmith_data.near_duplicates.forest import DisjointSets
from tunesmith_data.splits.clusters import MAX_SHARE, find_clusters
from tunesmith_data.splits.rows import RowTable

MAX_EQUAL_SHARE = 0.5
"""A prompt in more than this share of the rows is an instruction and does not join them."""


def cluster_records(records: Sequence[Record]) -> list[int]:
    """Return the cluster of each record, identified by the index of the cluster's first record.

    Near-duplicates form clusters of up to a fifth of the rows, as in a split. Rows with equal
    prompts form clusters of up to half of the rows, which a split would have to divide. See
    :func:`find_clusters`.
    """
    table = RowTable(seed=0)
    for record in records:
        table.add(record)
    table.finish()
    limit = max(1, int(MAX_SHARE * len(table)))
    clusters = find_clusters(table, records, near_duplicates=None, limit=limit).of_row.tolist()
    forest, counts, first = DisjointSets(len(table)), Counter(table.prompts), dict[int, int]()
    for row, (cluster, prompt) in enumerate(zip(clusters, table.prompts, strict=True)):
        forest.join(cluster, row)
        if counts[prompt] <= MAX_EQUAL_SHARE * len(table):
            forest.join(first.setdefault(prompt, row), row)
    found: list[int] = forest.roots().tolist()
    return found
