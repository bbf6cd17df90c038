"""Add rows to a split 50 times, and count rows that change their part, and duplicates across parts.

``python -m tests.benchmarks.additions FOLDER`` reads banking77 below FOLDER. After each addition,
every test row that has become a near duplicate of a training row must be in a finding.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from tests.benchmarks.data_checks import table

from tunesmith.contracts import SplitRequest
from tunesmith.records import Record
from tunesmith_data.near_duplicates import find_nearest
from tunesmith_data.splits import PARTS, PromptTexts, split_records

FIRST_ROWS, ADDED_ROWS, ADDITIONS = 2_000, 100, 50


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.additions")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    pool: list[Record] = list(table("text", "category")(options.folder / "banking77/train.csv"))
    rng.shuffle(pool)
    records = pool[:FIRST_ROWS]
    assigned: dict[str, str] = {}
    moved = unreported = 0
    reported: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for addition in range(ADDITIONS + 1):
            request = SplitRequest(
                records=records,
                seed=addition,
                test=True,
                test_size=None,
                validation=True,
                needs_validation=False,
            )
            result = split_records(records, request, file=Path(folder) / "split.json")
            parts = {records[row].source: part for part in PARTS for row in getattr(result, part)}
            moved += sum(parts[source] != part for source, part in assigned.items())
            assigned = parts
            train, test = ([records[row] for row in rows] for rows in (result.train, result.test))
            flagged = {row for finding in result.findings for row in finding.test_rows}
            matches = find_nearest(PromptTexts(train), PromptTexts(test))
            unreported += sum(m is not None and row not in flagged for row, m in enumerate(matches))
            reported |= {test[row].source for row in flagged}
            records += pool[len(records) : len(records) + ADDED_ROWS]
            rng.shuffle(records)
    rows = f"{FIRST_ROWS:,} rows, and {ADDITIONS} times {ADDED_ROWS} more"
    print(f"{rows}: {moved} rows changed their part; {len(reported)} test rows were joined with")
    print(f"training rows and reported; {unreported} duplicates of training rows were not reported")


if __name__ == "__main__":
    main()
