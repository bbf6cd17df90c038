"""The README's run file runs with a tiny model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tunesmith

README = Path(__file__).parents[1] / "README.md"


def test_the_run_file_runs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH__RUN__SIDE_EFFECTS", "false")
    text = README.read_text(encoding="utf-8")
    (run,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (rows,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    (tmp_path / "run.toml").write_text(
        run.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(tiny_model)), encoding="utf-8"
    )
    (tmp_path / "functions.jsonl").write_text(rows, encoding="utf-8")
    result = tunesmith.run(
        tmp_path / "run.toml", set={"technique.max_steps": 2, "baselines.use": []}
    )
    assert "conventions-kept" in str(result.report)
