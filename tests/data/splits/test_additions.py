"""Rows are added 50 times: no row changes its part, and rows that join two parts are reported."""

from __future__ import annotations

from pathlib import Path
from random import Random

from splitting import request_for

from tunesmith.contracts import Split
from tunesmith.records import Completion
from tunesmith_data.splits import PARTS, split_records

ADDITIONS = 50
WORDS = 30
JOINED = slice(10, 17)
"""The words in which two rows of a pair differ: too many to be near duplicates."""


def sentence(rng: Random) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(WORDS)]


def row(source: str, words: list[str]) -> Completion:
    return Completion(source=source, prompt=" ".join(words), completion="x")


def parts_of(result: Split, records: list[Completion]) -> dict[str, str]:
    return {records[n].source: part for part in PARTS for n in getattr(result, part)}


def test_fifty_additions_move_no_row_and_report_those_they_join(tmp_path: Path) -> None:
    rng = Random(11)
    pairs = []
    for _ in range(40):
        one = sentence(rng)
        other = [*one[:10], *sentence(rng)[JOINED], *one[17:]]
        pairs.append((one, other))
    records = [row(f"{side} {n}", pair[side]) for n, pair in enumerate(pairs) for side in (0, 1)]
    file = tmp_path / "split.json"
    assigned = parts_of(split_records(records, request_for(records), file=file), records)
    apart = [n for n in range(40) if {assigned[f"0 {n}"], assigned[f"1 {n}"]} == {"train", "test"}]
    assert len(apart) >= 5
    bridges = 0
    for addition in range(ADDITIONS):
        records += [row(f"new {addition}.{n}", sentence(rng)) for n in range(rng.randrange(3))]
        joined = apart.pop() if addition % 9 == 4 and apart else None
        if joined is not None:  # with half of the words in which the two differ
            one, other = pairs[joined]
            records.append(row(f"bridge {joined}", [*one[:13], *other[13:17], *one[17:]]))
        rng.shuffle(records)
        request = request_for(records, seed=addition)
        result = split_records(records, request, file=file)
        now = parts_of(result, records)
        assert {source: now[source] for source in assigned} == assigned
        assigned = now
        flagged = {records[result.test[n]].source for f in result.findings for n in f.test_rows}
        if joined is not None:
            bridges += 1
            assert now[f"bridge {joined}"] == "train"
            duplicate = next(
                f"{side} {joined}" for side in (0, 1) if now[f"{side} {joined}"] == "test"
            )
            assert duplicate in flagged
        assert len(flagged) == bridges, "rows that were joined once are reported each time"
    assert bridges >= 5
