"""The guide to the server: its commands and its program get answers from a server."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from serving import fetch, run_server, text_model

from tunesmith.catalog import Catalog
from tunesmith.plugins import Selection, find_plugins
from tunesmith_plugins.commands.serve.api_request import ChatRequest, CompletionRequest
from tunesmith_plugins.commands.serve.command import command
from tunesmith_plugins.commands.serve.engine import BatchedEngine
from tunesmith_plugins.commands.serve.extensions import open_extensions

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serve.md"


def test_the_requests_of_the_guide_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    engines = {name: BatchedEngine(text_model(), slots=2) for name in ("tuned", "base")}
    (line,) = re.findall(r"^\$ (curl .*)$", text, re.MULTILINE)
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with run_server(engines) as running:
        _, address, *options = shlex.split(line)
        assert options[0::2] == ["-H", "-d"]
        body = json.loads(options[3])
        reply = fetch(address.replace("http://127.0.0.1:8000", running.address), body)
        answer = json.loads(reply.text)["choices"][0]["message"]["content"]
        exec(program.replace("http://127.0.0.1:8000", running.address), {})
        running.wait_until_idle()
    assert answer and capsys.readouterr().out.startswith(answer)


def test_the_extension_of_the_guide_chooses_and_observes(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (program,) = re.findall(r'```python title="by_user.py"\n(.*?)```', text, re.DOTALL)
    (table,) = re.findall(r'```toml title="extensions.toml"\n(.*?)```', text, re.DOTALL)
    file, log = tmp_path / "by_user.py", tmp_path / "answers.jsonl"
    file.write_text(program, encoding="utf-8")
    options = tmp_path / "extensions.toml"
    options.write_text(table.replace("answers.jsonl", str(log)), encoding="utf-8")
    catalog = Catalog(find_plugins(Selection(allowed=frozenset({file.stem}), files=(str(file),))))
    (extension,) = open_extensions(catalog, options)
    engines = {name: BatchedEngine(text_model(), slots=2) for name in ("tuned", "of-ann")}
    body = {"model": "tuned", "messages": [{"role": "user", "content": "q"}], "max_tokens": 2}
    with run_server(engines, extensions=[extension]) as running:
        for user in ("ann", "bob"):
            reply = running.fetch("/v1/chat/completions", body, {"X-User": user})
            assert reply.status == 200
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [line["model"] for line in lines] == ["of-ann", "tuned"]
    assert lines[0]["messages"] == body["messages"] and lines[0]["answers"]


def test_every_parameter_and_every_limit_is_in_the_guide() -> None:
    text = PAGE.read_text(encoding="utf-8")
    parameters = {*ChatRequest.model_fields, *CompletionRequest.model_fields}
    for name in parameters - {"model", "messages", "prompt"}:
        assert f"`{name}`" in text, name
    for option, default in re.findall(r"^\| `(--[\w-]+)` \| (\d+) \|", text, re.MULTILINE):
        (found,) = (o for o in command.params if option in o.opts)
        assert found.default == float(default), option
