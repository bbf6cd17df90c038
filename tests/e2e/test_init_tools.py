"""``tunesmith init`` keeps tool calls that the model's own chat template drops."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tunesmith = Callable[..., Any]
TOOL = {"type": "function", "function": {"name": "get", "description": "d", "parameters": {}}}
STRICT = """
from tunesmith.contracts import Finding
from tunesmith.hookspecs import hookimpl

@hookimpl
def tunesmith_review_data(train):
    return [Finding(level="error", where="data", message="never satisfied")]
"""


@pytest.mark.parametrize("other_error", [False, True])
def test_a_template_that_writes_the_calls_is_chosen(
    other_error: bool, tunesmith: Tunesmith, tiny_folder: Path, tmp_path: Path
) -> None:
    """Errors about something else do not matter."""
    rows = []
    for number in range(40):
        call = {"name": "get", "arguments": json.dumps({"x": f"city {number}"})}
        turns = [
            {"role": "user", "content": f"weather in city {number}"},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
        ]
        rows.append(json.dumps({"tools": [TOOL], "messages": turns}))
    (tmp_path / "tools.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "strict.py").write_text(STRICT)
    plugin = ("--plugin", str(tmp_path / "strict.py")) if other_error else ()
    data = ("--data", str(tmp_path / "tools.jsonl"), "--model", str(tiny_folder))
    done = tunesmith("init", str(tmp_path / "new"), *data, *plugin)
    assert done.code == 0, done.err
    written = tomllib.loads((tmp_path / "new" / "run.toml").read_text())
    assert written["technique"]["chat_template"] == {"source": "chatml"}
