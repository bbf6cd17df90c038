"""Measure the dashboard: python benchmark.py [RUNS] [EVENTS per run].

Prints JSON with processor seconds until the first frame (imports included), processor seconds of
the fold of all events, and the peak memory of the process that shows them. The logs are written
by another process.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_runs(root: Path, runs: int, events: int) -> None:
    """Write runs with about this many events each."""
    from tunesmith.events import StepFinished
    from tunesmith.testing import sample_event, sample_run

    frame = [json.dumps({"time": 1.0, **event.to_json()}) for event in sample_run(steps=0)]
    steps = [
        json.dumps({"time": 1.0, **sample_event(StepFinished, step=n, loss=2 / n).to_json()})
        for n in range(1, events - len(frame) + 1)
    ]
    text = "\n".join([*frame[:14], *steps, *frame[14:], ""])
    for number in range(runs):
        folder = root / f"2026-01-01_{number:04d}_sample"
        folder.mkdir()
        (folder / "lock").touch()
        (folder / "events.jsonl").write_text(text, encoding="utf-8")


async def measure(root: Path) -> dict[str, float]:
    """Start the dashboard, and read until it is up to date."""
    from tunesmith_tui.app import Dashboard
    from tunesmith_tui.library import Library

    library = Library([root])
    app = Dashboard(library)
    async with app.run_test(size=(160, 48)) as pilot:
        first = time.process_time()
        library.advance(3_600)
        app.refresh_view()
        await pilot.pause()
    peak = read_peak_memory()
    fold = Library([root])
    fold.scan()
    start = time.process_time()
    fold.advance(3_600)
    return {
        "runs": len(library.runs),
        "events": sum(run.lines for run in library.runs.values()),
        "first_frame_seconds": round(first, 2),
        "fold_seconds": round(time.process_time() - start, 2),
        "peak_memory_mib": peak,
    }


def read_peak_memory() -> int:
    """Return the peak resident memory of this process, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def main(runs: int = 200, events: int = 500) -> None:
    """Write the runs in one process, and measure in another."""
    with tempfile.TemporaryDirectory() as root:
        write_runs(Path(root), runs, events)
        subprocess.run([sys.executable, __file__, "--measure", root], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(asyncio.run(measure(Path(sys.argv[2])))))
    else:
        main(*map(int, sys.argv[1:]))
