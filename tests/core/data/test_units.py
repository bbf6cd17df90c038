"""Units: records of a group or of a cluster depend on each other."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.units import RecordsByUnit, cluster_each_record, restore_loaded_groups
from tunesmith.records import Completion, Record


def rows(*groups: str | None) -> list[Record]:
    return [
        Completion(source=f"f:{n}", prompt=f"q{n}", completion="a", group=group)
        for n, group in enumerate(groups)
    ]


def units(records: Sequence[Record], *clusters: int) -> list[str | None]:
    found = RecordsByUnit(records, lambda records: clusters or range(len(records)))
    assert [record.group for record in found] == list(found.units)
    assert [record.group for record in found[1:]] == list(found.units)[1:]
    return list(found.units)


def test_a_row_alone_has_no_unit_and_a_group_keeps_its_name() -> None:
    assert units(rows(None, None)) == [None, None]
    assert units(rows("a", None, "a", "b")) == ["a", None, "a", "b"]
    records = rows("a", "b")
    assert list(RecordsByUnit(records, cluster_each_record)) == records


def test_a_cluster_is_a_unit_and_joins_groups() -> None:
    assert units(rows(None, None, None), 7, 8, 7) == ["like f:0", None, "like f:0"]
    assert units(rows("a", None, "a", "b"), 1, 2, 3, 2) == ["a", "like f:1", "a", "like f:1"]
    # f:0 and f:2 share a group, f:2 and f:3 a cluster.
    assert units(rows("a", None, "a", "b"), 1, 2, 3, 3) == ["like f:0", None, *["like f:0"] * 2]


def test_clusters_of_a_splitter_are_joined_with_those_that_are_found() -> None:
    found = RecordsByUnit(rows(*[None] * 4), lambda records: [1, 2, 2, 3], [4, 4, 5, 6])
    assert list(found.units) == [*["like f:0"] * 3, None]
    assert list(RecordsByUnit([], cluster_each_record)) == []


def test_records_are_given_back_as_they_were_loaded() -> None:
    records = rows("a", "b")
    assert restore_loaded_groups(RecordsByUnit(records, lambda records: [1, 1])) == records
    assert restore_loaded_groups(records) is records
