"""A real model answers from the passages of a handbook that no training row knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.benchmarks.handbook import write_project

from tunesmith_cli.app import app


@pytest.mark.real_model
def test_a_real_model_reads_the_new_edition(tmp_path: Path, smollm2: str) -> None:
    write_project(tmp_path, pages=8)
    file = tmp_path / "run.toml"
    assert smollm2 in file.read_text()
    file.write_text(file.read_text().replace("[baselines.retrieved-shots]\nk = [4]\n", ""))
    arguments = ["baselines", str(file), "--only", "documents", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    (documents,) = json.loads(result.stdout)["baselines"]
    assert documents["baseline"] == "documents" and documents["n"] == 16
    assert documents["value"] >= 0.5
