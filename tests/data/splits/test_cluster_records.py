"""Clusters of test rows that were not split off."""

from __future__ import annotations

from tunesmith.records import Completion, Record
from tunesmith_data.splits import cluster_records

QUESTIONS = (
    "How do I change the billing address of my company account?",
    "Which ports does the printer on the second floor need?",
    "The export of last month's invoices stops after three pages.",
)


def rows(count: int, group: str | None = None) -> list[Record]:
    return [
        Completion(source=f"f:{n}", prompt=QUESTIONS[n % 3], completion=f"a {n}", group=group)
        for n in range(count)
    ]


def test_equal_prompts_are_a_cluster_up_to_half_of_the_rows() -> None:
    assert cluster_records(rows(60)) == [n % 3 for n in range(60)]
    shared = [*rows(60)[::3], *rows(3)[1:]]
    assert len(set(cluster_records(shared))) == len(shared)  # an instruction, not a question
    assert cluster_records([]) == []


def test_near_duplicates_and_groups_are_clusters() -> None:
    others = [
        Completion(source=f"o:{n}", prompt=f"{word} are late again", completion="c")
        for n, word in enumerate(("Buses", "Deliveries to Lyon", "My medical results", "Taxes"))
    ]
    near = [
        Completion(source="f:0", prompt=QUESTIONS[0], completion="a"),
        Completion(
            source="f:1", prompt=QUESTIONS[0].replace("How do", "So how do"), completion="b"
        ),
        *rows(6)[1:3],
        *rows(6)[4:6],
        *others,
    ]
    assert cluster_records(near) == [0, 0, 2, 3, 2, 3, 6, 7, 8, 9]
    distinct = rows(3)
    assert cluster_records(distinct) == [0, 1, 2]
    assert cluster_records(rows(3, group="ward")) == [0, 0, 0]
