"""Cluster rows that must stay in one split: similar prompts, shared turns, or one group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_data.near_duplicates import cluster_texts
from tunesmith_data.near_duplicates.forest import DisjointSets
from tunesmith_data.splits.exchanges import read_exchanges
from tunesmith_data.splits.normalize import PromptTexts, normalize_text
from tunesmith_data.splits.rows import RowTable
from tunesmith_data.text import content_key

MAX_SHARE = 0.2
"""Maximum share of rows in a cluster. A larger cluster would fill a whole split, or leave too few
rows to train on."""
SMALL_CLUSTER = 10
"""Clusters of up to this many rows are always kept together, even in small data."""
MAX_COMPARED_ROWS = 100_000
"""Up to this many rows, prompts are compared for near-duplicates by default, within seconds."""

_NOT_COMPARED = Finding(
    level="info",
    where="split.near_duplicates",
    message=f"with more than {MAX_COMPARED_ROWS:,} rows, rows with equal prompts are kept "
    "together, but not rows with similar ones; split.near_duplicates = true compares "
    "all prompts, a million rows in a minute",
)

Rows = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Clusters:
    """The cluster of each row, and the clusters in random order."""

    order: list[int]
    """The clusters in random order; each is identified by its first row."""
    of_row: Rows
    sizes: dict[int, int]
    """Number of rows in each cluster."""
    findings: Sequence[Finding] = ()

    @property
    def largest(self) -> int:
        """Number of rows in the largest cluster."""
        return max(self.sizes.values(), default=0)

    def ranks(self) -> list[int]:
        """Return the position of each row's cluster in the order, which depends only on content."""
        place = {cluster: number for number, cluster in enumerate(self.order)}
        return [place[cluster] for cluster in self.of_row.tolist()]


def find_clusters(
    table: RowTable,
    records: Sequence[Record],
    *,
    near_duplicates: bool | None,
    limit: int | None = None,
) -> Clusters:
    """Join rows that must stay in the same split into clusters.

    These rows are joined:

    - rows with equal prompts, or with near-duplicate prompts
    - rows of one conversation: one is the start of the other, or they share an exchange
    - rows of one group, always

    A cluster may have at most a fifth of the rows. An instruction that more rows share is not a
    reason to keep them together; among these rows, only equal ones are joined.

    Args:
        table: hashes of all rows.
        records: the records, for reading prompts and conversations.
        near_duplicates: True to compare prompts; None: only up to 100,000 rows.
        limit: maximum number of rows in a cluster, instead of a fifth of the rows.
    """
    forest = DisjointSets(len(table))
    limit = limit or max(SMALL_CLUSTER, int(MAX_SHARE * len(table)))
    findings = []
    identities = np.frombuffer(table.prompts, dtype=np.uint64).copy()
    shared = _in_large_sets(identities, limit)
    for row in np.flatnonzero(shared).tolist():
        identities[row] = table.digest("row", normalize_text(content_key(records[row])))
    if shared.any():
        findings.append(_note(f"{shared.sum():,} rows share their prompt with a fifth of the data"))
    _join_equal(forest, identities)
    if table.has_earlier_exchanges:
        findings += _join_conversations(forest, records, limit)
    keys = np.frombuffer(table.keys, dtype=np.uint64)
    usual = (keys > 0) & ~_in_large_sets(keys, limit)
    _join_equal(forest, keys[usual], np.flatnonzero(usual))
    if near_duplicates or (near_duplicates is None and len(table) <= MAX_COMPARED_ROWS):
        labels = cluster_texts(PromptTexts(records))
        loose = _in_large_sets(labels, min(limit, len(table) // 2))
        _join_equal(forest, labels[~loose], np.flatnonzero(~loose))
        if (loose & ~shared).any():
            text = f"{(loose & ~shared).sum():,} rows are similar to a fifth of the data"
            findings.append(_note(text))
    elif near_duplicates is None:
        findings.append(_NOT_COMPARED)
    groups = np.frombuffer(table.groups, dtype=np.uint64)
    members = np.flatnonzero(groups)
    _join_equal(forest, groups[members], members)
    return _in_order(forest.roots(), identities, findings)


def _join_conversations(
    forest: DisjointSets, records: Sequence[Record], limit: int
) -> list[Finding]:
    """Join rows where one is the start of the other, and rows that share an exchange."""
    found = read_exchanges(records)
    findings = []
    for keys, chosen in ((found.contexts, found.asked), (found.ends, found.is_answer)):
        values, rows = keys[chosen], found.rows[chosen]
        frequent = _in_large_sets(values, limit)
        _join_equal(forest, values[~frequent], rows[~frequent])
        frequent &= ~found.is_last[chosen]
        if frequent.any():
            count = len(np.unique(rows[frequent]))
            text = f"{count:,} rows start with the same turns as a fifth of the data"
            findings.append(_note(text))
    return findings[:1]


def _in_order(of_row: Rows, identities: Hashes, findings: Sequence[Finding]) -> Clusters:
    """Order clusters by their smallest hash, which is random but determined by their content."""
    order = np.full(len(of_row), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(order, of_row, identities)
    roots, counts = np.unique(of_row, return_counts=True)
    ordered = roots[np.argsort(order[roots], kind="stable")].tolist()
    sizes = dict(zip(roots.tolist(), counts.tolist(), strict=True))
    return Clusters(ordered, of_row, sizes, tuple(findings))


def _in_large_sets(values: npt.NDArray[np.generic], limit: int) -> npt.NDArray[np.bool_]:
    """Return True for each row whose value occurs in more than ``limit`` rows."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    large: npt.NDArray[np.bool_] = (counts > limit)[codes]
    return large


def _join_equal(
    forest: DisjointSets, values: npt.NDArray[np.generic], rows: npt.NDArray[np.intp] | None = None
) -> None:
    """Join rows with equal values; ``rows`` are their indices if only some rows have a value."""
    order = np.argsort(values, kind="stable")
    equal = np.flatnonzero(values[order][1:] == values[order][:-1])
    numbers = order if rows is None else rows[order]
    for first, second in zip(numbers[equal].tolist(), numbers[equal + 1].tolist(), strict=True):
        forest.join(first, second)


def _note(text: str) -> Finding:
    message = f"{text}; of these, only equal rows are kept together"
    return Finding(level="info", where="split", message=message)
