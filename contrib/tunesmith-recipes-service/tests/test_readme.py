"""The README's run file runs with a tiny model."""

from __future__ import annotations

from pathlib import Path

import tunesmith


def test_the_run_file_runs(readme_run_file: Path) -> None:
    result = tunesmith.run(readme_run_file, set={"technique.max_steps": 2, "baselines.use": []})
    assert "reply-acceptable" in str(result.report)
