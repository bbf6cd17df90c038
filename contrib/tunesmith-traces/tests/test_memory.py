"""Calls take the same memory however many there are, apart from a small index."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from memory import FORMATS, write_file

from tunesmith_traces.offer import TRACES, KeySet, TraceOptions

FILL = """
from pathlib import Path
from tunesmith_traces.offer import KeySet

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

keys = KeySet()
before = peak()
assert all(keys.add(number.to_bytes(16, "little")) for number in range(300_000))
print(peak() - before)
"""


def measure(path: Path) -> tuple[int, int]:
    """Return the number of calls, and the most bytes that Python objects took at once."""
    tracemalloc.start()
    try:
        count = len(TRACES.build(TraceOptions(train=str(path))).load().train)
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", FORMATS)
def test_a_call_takes_less_than_30_bytes(form: str, tmp_path: Path) -> None:
    sizes = []
    # The first file fills caches; files are read and copied in blocks of 1 MB.
    for size in (100_000, 1_500_000, 3_000_000):
        write_file(tmp_path / "calls.jsonl", form, size)
        sizes.append(measure(tmp_path / "calls.jsonl"))
    (few, small), (many, large) = sizes[1:]
    assert many > few + 1_000
    assert large - small < 30 * (many - few)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc of Linux")
def test_keys_are_not_kept_in_memory() -> None:
    done = subprocess.run([sys.executable, "-c", FILL], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4_000


def test_a_key_is_added_once() -> None:
    keys = KeySet()
    assert [keys.add(key) for key in (b"a", b"b", b"a")] == [True, True, False]
