"""Candidate slices: parts of the rows that a person can name."""

from __future__ import annotations

import random
from dataclasses import replace

from tests.benchmarks.slices import hide_topic, make_rows

from tunesmith_evidence.slices.candidates import find_candidates

ROWS = make_rows(400, random.Random(3))


def test_candidates_of_each_kind() -> None:
    found = find_candidates(hide_topic(ROWS))
    assert {candidate.kind for candidate in found} == {"column", "label", "length", "cluster"}
    names = {candidate.name: candidate for candidate in found}
    mail = {i for i, row in enumerate(ROWS) if ("channel", "mail") in row.columns}
    assert names["channel = mail"].members == mail
    spam = {i for i, row in enumerate(ROWS) if row.expected == "spam"}
    assert names["expected answer = spam"].members == spam


def test_files_are_slices_however_their_rows_are_named() -> None:
    named = [
        replace(row, source=f"a:b.json, row {n}" if n % 2 else f"c:d.jsonl:{n}")
        for n, row in enumerate(ROWS)
    ]
    names = {candidate.name: candidate for candidate in find_candidates(named)}
    assert names["file = a:b.json"].members == frozenset(range(1, 400, 2))
    assert names["file = c:d.jsonl"].members == frozenset(range(0, 400, 2))


def test_topics_are_clusters() -> None:
    heating = {i for i, row in enumerate(ROWS) if ("id", "heating") in row.columns}
    clusters = [c for c in find_candidates(hide_topic(ROWS)) if c.kind == "cluster"]
    best = max(len(c.members & heating) / len(c.members | heating) for c in clusters)
    assert best > 0.9
    assert any("radiator" in c.name or "boiler" in c.name for c in clusters)


def test_slices_are_large_enough_and_differ() -> None:
    found = find_candidates(ROWS)
    assert all(20 <= len(candidate.members) <= 380 for candidate in found)
    assert len({candidate.members for candidate in found}) == len(found)
    assert find_candidates(ROWS[:30]) == [] and find_candidates([]) == []
