"""Choose clusters for a part, with the same share of each label as in all rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tunesmith_data.splits.clusters import Clusters
from tunesmith_data.splits.rows import RowTable


def choose_clusters(
    candidates: Sequence[int], clusters: Clusters, table: RowTable, size: int
) -> list[int]:
    """Choose clusters with ``size`` rows in all, as closely as their sizes permit.

    ``candidates`` are in the order in which they are taken. With labels, the same share of each is
    chosen, to within one row if no rows have to stay together. Answers that mostly have a single
    cluster each are no labels: they answer questions that are asked again.
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
    """Return the candidates by the most frequent label of each, in their order."""
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
    """Return the rows to choose per label: the exact share rounded down, plus at most one.

    The additional rows go first to labels that would have no row, then by the largest remainder
    (Hamilton's method), and last to labels of which nothing would be left.
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
    """Take clusters in their order until `target` rows are reached as closely as possible.

    A cluster with too many rows is skipped. At the end, the smallest skipped one is taken if that
    is closer to the target than stopping short, and if another one is left to train on.
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
