"""Measure ``tunesmith data check``: seconds and peak memory for files of rows of about 100 tokens.

``python -m tests.benchmarks.data_check_speed [ROWS ...]`` measures a file of 100,000 rows, unless
other numbers are given. The memory is what the rows take beside those of a file of 100.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

from tests.benchmarks.work import SEED

SMALL_ROWS = 100
ROWS = 100_000
PROMPT_WORDS, COMPLETION_WORDS = (40, 55), (15, 25)
"""Words of the parts of a row: together about 100 tokens, and 500 characters."""


class Cost(NamedTuple):
    """What a check took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def write_rows(path: Path, rows: int) -> None:
    """Write rows of random English words; none are similar."""
    words = " ".join(topics.values()).split()
    source = random.Random(SEED)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            parts = (
                " ".join(source.choices(words, k=source.randint(*limits)))
                for limits in (PROMPT_WORDS, COMPLETION_WORDS)
            )
            file.write(json.dumps(dict(zip(("prompt", "completion"), parts, strict=True))) + "\n")


def check(path: Path) -> Cost:
    """Check a file in a process of its own.

    Raises:
        RuntimeError: the check failed.
    """
    command = [sys.executable, "-m", "tunesmith", "data", "check", str(path), "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"data check returned {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(time.perf_counter() - started, cpu, usage.ru_maxrss / 1024)


def measure(folder: Path, rows: int) -> tuple[Cost, Cost]:
    """Return the cost of a check of 100 rows, and of this number of rows."""
    write_rows(folder / "small.jsonl", SMALL_ROWS)
    write_rows(folder / "rows.jsonl", rows)
    return check(folder / "small.jsonl"), check(folder / "rows.jsonl")


def main() -> None:
    print("| rows | seconds | CPU seconds | MB beside those of 100 rows |\n|---|---|---|---|")
    for rows in map(int, sys.argv[1:] or [ROWS]):
        with tempfile.TemporaryDirectory() as folder:
            small, large = measure(Path(folder), rows)
        more = large.peak_mb - small.peak_mb
        print(f"| {rows:,} | {large.seconds:.0f} | {large.cpu_seconds:.0f} | {more:.0f} |")


if __name__ == "__main__":
    main()
