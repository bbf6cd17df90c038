"""``tunesmith schema`` prints the schema that an editor checks run files with."""

from __future__ import annotations

import json

from click.testing import CliRunner

from tunesmith.cli.app import app
from tunesmith.cli.schema import command


def test_it_prints_the_schema_of_the_installed_plugins() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["$schema"].startswith("https://json-schema.org/")
    assert {"model", "data", "technique", "gate"} <= printed["properties"].keys()


def test_the_help_line_names_the_schema() -> None:
    assert command.name == "schema"
    assert "JSON Schema" in (command.help or "")
