"""Write generation files, and read what they give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w
from click.testing import CliRunner, Result

from tunesmith_cli.app import app
from tunesmith_synthetic.request import Request, read_request


def write_generation(folder: Path, generator: dict[str, Any], **tables: Any) -> Path:
    """Write ``gen.toml`` for the run file in a folder."""
    path = folder / "gen.toml"
    path.write_text(tomli_w.dumps({"run": "run.toml", "generator": generator, **tables}))
    return path


def request_of(folder: Path, generator: dict[str, Any], **tables: Any) -> Request:
    """Return the request of a new generation file."""
    return read_request(write_generation(folder, generator, **tables))


def invoke(*words: Any) -> Result:
    """Run a command."""
    return CliRunner().invoke(app, [str(word) for word in words])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
