"""Units: independent samples. Intervals and tests count units, not records.

A unit is a cluster of dependent records: records of one group, or with nearly the same prompt. A
record that depends on no other record is its own unit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tunesmith.data.subset import Subset
from tunesmith.records import Record

FindClusters = Callable[[Sequence[Record]], Sequence[Hashable]]
"""Return a hashable label for each record; records with the same label are in one cluster."""


def cluster_each_record(records: Sequence[Record]) -> Sequence[Hashable]:
    """Return clusters of one record each."""
    return range(len(records))


@dataclass(frozen=True)
class RecordsByUnit(Sequence[Record]):
    """Records whose ``group`` is their unit. Clusters are found when the first record is read."""

    records: Sequence[Record]
    find_clusters: FindClusters
    clusters: Sequence[Hashable] = ()
    """Clusters from the splitter, which are merged with the clusters that are found."""

    @cached_property
    def units(self) -> Sequence[str | None]:
        """The unit of each record; None if the record is its own unit.

        A unit is named after its group if all its records are in that group, otherwise after its
        first record.
        """
        groups = [record.group for record in self.records]
        alone = [("record", row) if group is None else group for row, group in enumerate(groups)]
        members: dict[int, list[int]] = {}
        found = self.find_clusters(self.records)
        for row, root in enumerate(_join(alone, found, self.clusters or alone)):
            members.setdefault(root, []).append(row)
        units: list[str | None] = [None] * len(groups)
        for rows in members.values():
            named = {groups[row] for row in rows}
            name = f"like {self.records[rows[0]].source}" if len(rows) > 1 else None
            for row in rows:
                units[row] = named.copy().pop() if len(named) == 1 and None not in named else name
        return units

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Subset(self, range(len(self))[index])
        return self._in_unit(self.records[index], self.units[index])

    def __iter__(self) -> Iterator[Record]:
        return map(self._in_unit, self.records, self.units)

    @staticmethod
    def _in_unit(record: Record, unit: str | None) -> Record:
        return record if unit == record.group else replace(record, group=unit)


def restore_loaded_groups(records: Sequence[Record]) -> Sequence[Record]:
    """Return the records with their original groups instead of their units."""
    return records.records if isinstance(records, RecordsByUnit) else records


def _join(*columns: Sequence[Hashable]) -> list[int]:
    """Cluster rows with equal labels in any column; return the first row of each row's cluster.

    Rows can also be connected through other rows.
    """
    above = list(range(len(columns[0])))

    def find(row: int) -> int:
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    for column in columns:
        first: dict[Hashable, int] = {}
        for row, label in enumerate(column):
            one, other = sorted((find(row), find(first.setdefault(label, row))))
            above[other] = one
    return [find(row) for row in range(len(above))]
