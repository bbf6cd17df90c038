"""A script in a process of its own ends at its limits, whatever it does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tunesmith_torch.untrusted.limited_process import NO_MEMORY, LimitedResult, run_limited


def run(folder: Path, code: str, **limits: float) -> LimitedResult:
    script = folder / "script.py"
    script.write_text(code)
    return run_limited(script, b"some data", **limits)  # type: ignore[arg-type]


def test_a_script_gets_its_data_and_returns_its_output(tmp_path: Path) -> None:
    done = run(tmp_path, "import sys\nprint(sys.stdin.read())\nsys.exit(3)")
    assert (done.code, done.output.strip(), done.reason) == (3, "some data", "")


def test_a_loop_ends(tmp_path: Path) -> None:
    assert "computes longer than 1 second" in run(tmp_path, "while 1: pass", cpu_seconds=1).reason


def test_a_process_that_waits_ends(tmp_path: Path) -> None:
    done = run(tmp_path, "import time\ntime.sleep(60)", wall_seconds=0.5)
    assert "runs longer than 0.5 seconds" in done.reason


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit addresses")
def test_memory_is_limited(tmp_path: Path) -> None:
    done = run(tmp_path, "x = 'x' * 2 ** 31")
    assert (done.code, done.reason) == (NO_MEMORY, "it needs too much memory")


def test_a_crash_ends_that_process_only(tmp_path: Path) -> None:
    assert "crashes" in run(tmp_path, "import os\nos.abort()").reason


def test_nothing_of_the_working_directory_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run(tmp_path, "import json").code == 0
