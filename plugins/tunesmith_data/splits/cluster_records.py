"""Clusters of records that are not split, such as test rows in a file of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tunesmith.records import Record
from tunesmith_data.near_duplicates.forest import Forest
from tunesmith_data.splits.clusters import MAX_SHARE, find_clusters
from tunesmith_data.splits.rows import RowTable

MOST_EQUAL = 0.5
"""Largest share of the rows with one prompt: what more of them share is an instruction."""


def cluster_records(records: Sequence[Record]) -> list[int]:
    """Return the cluster of each record, by its first one: see :func:`find_clusters`.

    Near-duplicates are a cluster up to a fifth of the rows, as in a split. A split has to divide
    the rows of a prompt that more of them have; here these are a cluster up to half of the rows.
    """
    table = RowTable(seed=0)
    for record in records:
        table.add(record)
    table.finish()
    limit = max(1, int(MAX_SHARE * len(table)))
    clusters = find_clusters(table, records, near_duplicates=None, limit=limit).of_row.tolist()
    forest, counts, first = Forest(len(table)), Counter(table.prompts), dict[int, int]()
    for row, (cluster, prompt) in enumerate(zip(clusters, table.prompts, strict=True)):
        forest.join(cluster, row)
        if counts[prompt] <= MOST_EQUAL * len(table):
            forest.join(first.setdefault(prompt, row), row)
    found: list[int] = forest.roots().tolist()
    return found
