"""Choose the clusters of a split, stratified by label."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tunesmith_data.splits.clusters import Clusters
from tunesmith_data.splits.rows import RowTable


def choose_clusters(
    candidates: Sequence[int], clusters: Clusters, table: RowTable, size: int
) -> list[int]:
    """Choose clusters with about ``size`` rows in total, as close as cluster sizes permit.

    With labels, the same share of each label is chosen, to within one row unless rows have to stay
    together. Answers that mostly occur in a single cluster do not count as labels, because they
    belong to questions that are asked repeatedly.

    Args:
        candidates: the clusters to choose from, in order of preference.
        clusters: all clusters.
        table: the labels of the rows.
        size: number of rows to choose.
    """
    by_label = _by_label(candidates, clusters, table)
    targets = _target_sizes(by_label, clusters.sizes, size)
    chosen: list[int] = []
    for label, target in targets.items():
        chosen += _take(by_label[label], clusters.sizes, target)
    if not chosen and size and len(candidates) > 1:
        chosen = [min(candidates, key=clusters.sizes.__getitem__)]
    return chosen


def _by_label(
    candidates: Sequence[int], clusters: Clusters, table: RowTable
) -> dict[str, list[int]]:
    """Group the candidates by their most frequent label, keeping their order."""
    labels = _labels(clusters, table) if table.labels else {}
    members: dict[str, list[int]] = defaultdict(list)
    for cluster, label in labels.items():
        members[label].append(cluster)
    single = sum(clusters.sizes[found[0]] for found in members.values() if len(found) == 1)
    if 2 * single >= sum(clusters.sizes.values()) or not labels:
        return {"": list(candidates)}
    by_label: dict[str, list[int]] = defaultdict(list)
    for cluster in candidates:
        by_label[labels[cluster]].append(cluster)
    return by_label


def _labels(clusters: Clusters, table: RowTable) -> dict[int, str]:
    """Return the most frequent label of each cluster."""
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for row, cluster in enumerate(clusters.of_row.tolist()):
        if clusters.sizes[cluster] > 1:
            counts[cluster][table.labels[row]] += 1
    texts = table.label_texts
    labels = {}
    for cluster in clusters.order:
        found = counts.get(cluster) or {table.labels[cluster]: 1}
        labels[cluster] = texts[min(found, key=lambda code: (-found[code], texts[code]))]
    return labels


def _target_sizes(
    by_label: Mapping[str, list[int]], sizes: Mapping[int, int], size: int
) -> dict[str, int]:
    """Return the number of rows to choose per label: the exact share, rounded down, plus at most 1.

    Extra rows go first to labels without any row, then by largest remainder (Hamilton's method),
    and last to labels that would otherwise vanish from training.
    """
    counts = {label: sum(sizes[c] for c in found) for label, found in by_label.items()}
    total = sum(counts.values())
    targets = {label: count * size // total for label, count in counts.items()}

    def priority(label: str) -> tuple[int, int]:
        vanishes = len(by_label[label]) == 1 or targets[label] + 1 >= counts[label]
        order = 2 if vanishes else min(targets[label], 1)
        return order, -(counts[label] * size % total)

    rest = size - sum(targets.values())
    for label in sorted((x for x in counts if counts[x] * size % total), key=priority)[:rest]:
        targets[label] += 1
    return targets


def _take(clusters: Sequence[int], sizes: Mapping[int, int], target: int) -> list[int]:
    """Take clusters in order until `target` rows are reached as closely as possible.

    Clusters that are too large are skipped. At the end, the smallest skipped cluster is taken if
    this comes closer to the target and leaves another cluster for training.
    """
    chosen, skipped, missing = [], [], target
    for cluster in clusters:
        if sizes[cluster] <= missing:
            chosen.append(cluster)
            missing -= sizes[cluster]
        else:
            skipped.append(cluster)
    if missing and len(skipped) > 1:
        smallest = min(skipped, key=sizes.__getitem__)
        if sizes[smallest] - missing < missing:
            chosen.append(smallest)
    return chosen
