"""The run file of the README runs, and its check finds what is in the rows."""

from __future__ import annotations

from pathlib import Path

import tunesmith


def test_the_run_file_runs(readme_run_file: Path) -> None:
    run = tunesmith.run(
        readme_run_file, set={"technique.max_steps": 2, "baselines.use": ["majority"]}
    )
    assert run.report.status == "ok"
    assert any("contains an IP address" in finding.message for finding in run.report.findings)
