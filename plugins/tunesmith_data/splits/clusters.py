"""Clusters: rows that must be in the same part, as they share a prompt, turns, group or wording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_data.near_duplicates import cluster_texts
from tunesmith_data.near_duplicates.forest import Forest
from tunesmith_data.splits.exchanges import read_exchanges
from tunesmith_data.splits.normalize import PromptTexts, normalize_text
from tunesmith_data.splits.rows import RowTable
from tunesmith_data.text import content_key

MAX_SHARE = 0.2
"""Largest share of the rows in a cluster: more would be a whole part, or leave none to train on."""
SMALL_CLUSTER = 10
"""Number of rows that are kept together however few rows there are."""
MAX_COMPARED_ROWS = 100_000
"""Rows up to which prompts are compared for near duplicates by default: some seconds."""

_NOT_COMPARED = Finding(
    level="info",
    where="split.near_duplicates",
    message=f"more than {MAX_COMPARED_ROWS:,} rows are split by equal prompts, not by similar ones;"
    " split.near_duplicates = true compares all, a million rows in a minute",
)

Rows = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Clusters:
    """The cluster of each row, and the clusters in the random order in which they are taken."""

    order: list[int]
    """The first row of each cluster, which is its name."""
    of_row: Rows
    sizes: dict[int, int]
    """Number of rows of each cluster, by its name."""
    findings: Sequence[Finding] = ()

    @property
    def largest(self) -> int:
        """Number of rows in the largest cluster."""
        return max(self.sizes.values(), default=0)

    def ranks(self) -> list[int]:
        """Return the place of each row's cluster in the order, which depends on content only."""
        place = {cluster: number for number, cluster in enumerate(self.order)}
        return [place[cluster] for cluster in self.of_row.tolist()]


def find_clusters(
    table: RowTable,
    records: Sequence[Record],
    *,
    near_duplicates: bool | None,
    limit: int | None = None,
) -> Clusters:
    """Join the rows that share a prompt, or a group, or have prompts that nearly equal each other.

    So are rows of one conversation: one that is the beginning of another, or that has an exchange
    with it in common. A cluster with more than a fifth of the rows is not made: an instruction that
    all rows share is no reason to keep them together, only equal rows are. A group is always kept
    together. If ``near_duplicates`` is None, prompts are compared up to 100,000 rows.
    ``limit`` is another number of rows in the largest cluster.
    """
    forest = Forest(len(table))
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
            text = f"{(loose & ~shared).sum():,} rows resemble a fifth of the data"
            findings.append(_note(text))
    elif near_duplicates is None:
        findings.append(_NOT_COMPARED)
    groups = np.frombuffer(table.groups, dtype=np.uint64)
    members = np.flatnonzero(groups)
    _join_equal(forest, groups[members], members)
    return _in_order(forest.roots(), identities, findings)


def _join_conversations(forest: Forest, records: Sequence[Record], limit: int) -> list[Finding]:
    """Join the rows that one row begins as, and those with an exchange in common."""
    found = read_exchanges(records)
    findings = []
    for keys, chosen in ((found.contexts, found.asked), (found.ends, found.is_answer)):
        values, rows = keys[chosen], found.rows[chosen]
        frequent = _in_large_sets(values, limit)
        _join_equal(forest, values[~frequent], rows[~frequent])
        frequent &= ~found.is_last[chosen]
        if frequent.any():
            count = len(np.unique(rows[frequent]))
            findings.append(_note(f"{count:,} rows begin as a fifth of the data does"))
    return findings[:1]


def _in_order(of_row: Rows, identities: Hashes, findings: Sequence[Finding]) -> Clusters:
    """Return the clusters ordered by the smallest hash in each, a random order of the content."""
    order = np.full(len(of_row), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(order, of_row, identities)
    roots, counts = np.unique(of_row, return_counts=True)
    ordered = roots[np.argsort(order[roots], kind="stable")].tolist()
    sizes = dict(zip(roots.tolist(), counts.tolist(), strict=True))
    return Clusters(ordered, of_row, sizes, tuple(findings))


def _in_large_sets(values: npt.NDArray[np.generic], limit: int) -> npt.NDArray[np.bool_]:
    """Return for each row if more than ``limit`` rows have its value."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    large: npt.NDArray[np.bool_] = (counts > limit)[codes]
    return large


def _join_equal(
    forest: Forest, values: npt.NDArray[np.generic], rows: npt.NDArray[np.intp] | None = None
) -> None:
    """Join the rows with equal values; ``rows`` are their numbers, if not all have a value."""
    order = np.argsort(values, kind="stable")
    equal = np.flatnonzero(values[order][1:] == values[order][:-1])
    numbers = order if rows is None else rows[order]
    for first, second in zip(numbers[equal].tolist(), numbers[equal + 1].tolist(), strict=True):
        forest.join(first, second)


def _note(text: str) -> Finding:
    message = f"{text}: of these, only equal rows are kept together"
    return Finding(level="info", where="split", message=message)
