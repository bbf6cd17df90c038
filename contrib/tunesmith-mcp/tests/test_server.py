"""The official client talks to the server over stdin and stdout, also with hostile calls."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

import tunesmith
from tunesmith_torch.testing.tiny_project import write_project

README = Path(__file__).parents[1] / "README.md"
SECRET = "hf_" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3b"
READING = {"check", "plan", "advise", "report", "failures", "compare", "runs"}
Call = tuple[str, dict[str, Any]]


def talk(folder: Path, work: Callable[[Client], Awaitable[None]], *flags: str) -> None:
    """Start the server for a folder, and let a client do the work."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "tunesmith", "mcp", str(folder), *flags],
        env={**os.environ, "TUNESMITH_TRUST_PLUGINS": "1"},
    )

    async def session() -> None:
        async with Client(server, read_timeout_seconds=120) as client:
            await work(client)

    anyio.run(session)


async def call(client: Client, tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
    """Return whether the call succeeded, and its text or error."""
    try:
        result = await client.call_tool(tool, arguments)
    except Exception as error:
        return False, str(error)
    return not result.is_error, "".join(getattr(part, "text", "") for part in result.content)


@pytest.fixture(scope="session")
def project(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared folder with a run file and two runs, in a folder with a secret file."""
    folder = tmp_path_factory.mktemp("outside") / "shared"
    folder.mkdir()
    (folder.parent / "secret.toml").write_text(f'token = "{SECRET}"')
    (folder.parent / "secret.jsonl").write_text('{"prompt": "hidden", "completion": "row"}\n' * 20)
    run_file = write_project(folder, tiny_model, epochs=1)
    for number in (1, 2):
        options = {"technique.max_steps": number, "run.side_effects": False}
        tunesmith.run(run_file, out=folder / "runs" / f"run-{number}", set=options)
    return folder


def test_an_assistant_checks_plans_and_reads(project: Path, tiny_model: Path) -> None:
    """The run file and the configuration are those of the README."""
    readme = README.read_text(encoding="utf-8")
    (config,) = re.findall(r"```json\n(\{\n.*?)```", readme, re.DOTALL)
    entry = json.loads(config)["mcpServers"]["tunesmith"]
    assert [entry["command"], *entry["args"]] == ["tunesmith", "mcp", "/home/anna/tickets"]
    (run_file,) = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    base = "HuggingFaceTB/SmolLM2-135M-Instruct"
    (project / "readme.toml").write_text(run_file.replace(base, str(tiny_model)))

    async def work(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == READING
        writes = {t.name for t in tools if not (t.annotations and t.annotations.read_only_hint)}
        assert writes == {"advise"} and all(tool.description for tool in tools)
        smaller = {"run_file": "run.toml", "changes": {"technique.adapter.rank": 4}}
        calls: list[tuple[str, dict[str, Any], str]] = [
            ("check", {"run_file": "readme.toml"}, "findings"),
            ("plan", smaller, "tunesmith.plan/1"),
            ("runs", {}, "run-2"),
            ("report", {"run": "runs/run-1"}, "tunesmith.report/1"),
            ("failures", {"run": "runs/run-1"}, "slices"),
            ("compare", {"runs": ["runs/run-1", "runs/run-2"]}, "tunesmith.compare/2"),
        ]  # fmt: skip
        for name, arguments, expected in calls:
            succeeded, text = await call(client, name, arguments)
            assert succeeded, f"{name}: {text}"
            assert json.loads(text) and expected in text, f"{name}: {text[:300]}"
        mistake = {"run_file": "run.toml", "changes": {"technique.epoch": 2}}
        succeeded, text = await call(client, "check", mistake)
        assert not succeeded and "technique.epoch" in text, text

    talk(project, work, "--read", str(tiny_model))


def change(key: str, value: object) -> Call:
    return "check", {"run_file": "run.toml", "changes": {key: value}}


MANY = [f"a{n}" for n in range(9999)]
OUTSIDE = "no such file or folder in the shared folder"
HOSTILE: list[tuple[Call, str]] = [
    # paths that lead out
    (("check", {"run_file": "../secret.toml"}), OUTSIDE),
    (("check", {"run_file": "/etc/passwd"}), OUTSIDE),
    (("check", {"run_file": "link.toml"}), OUTSIDE),
    (("check", {"run_file": "runs/../../secret.toml"}), OUTSIDE),
    (("check", {"run_file": "run.toml\0.txt"}), OUTSIDE),
    (("report", {"run": "/"}), OUTSIDE),
    (("failures", {"run": "../"}), OUTSIDE),
    (("compare", {"runs": ["runs/run-1", "../../etc"]}), OUTSIDE),
    (("runs", {"folder": "/home"}), OUTSIDE),
    # run files that read outside, or execute code
    (change("data.train", "../secret.jsonl"), "leads out of the shared folder"),
    (change("data.train", '["../secret.jsonl"]'), ""),
    (change("data.train", "linked.json*"), "leads out of the shared folder"),
    (change("data.train", "~/secret.jsonl"), "must be a path in the shared folder"),
    (change("data.train", "file:///etc/passwd"), "addresses are not allowed"),
    (change("model.base", "https://example.com/model"), "addresses are not allowed"),
    (change("run.folder", "/tmp/elsewhere"), "leads out of the shared folder"),
    (change("run.folder", "no\n/../../elsewhere"), "leads out of the shared folder"),
    (change("data.url_env", "HOME"), "environment variables are not allowed"),
    (("check", {"run_file": "code.toml"}), "names code"),
    (("advise", {"run_file": "code.toml"}), "names code"),
    # options in place of values
    (("report", {"run": "--help"}), OUTSIDE),
    (("compare", {"runs": ["--page=x.html", "runs/run-1"]}), OUTSIDE),
    (("check", {"run_file": "run.toml", "changes": {"--trust-plugins": True}}), "validation"),
    (("failures", {"run": "runs/run-1", "items": 10**9}), "validation"),
    # huge or wrong arguments
    (("check", {"run_file": "a" * 5_000_000}), "validation"),
    (("compare", {"runs": ["runs/run-1"] * 100_000}), "validation"),
    (("plan", {"run_file": "run.toml", "changes": dict.fromkeys(MANY, 1)}), "validation"),
    (("check", {"run_file": {"$ref": "x"}}), "validation"),
    (("check", {}), "validation"),
    # what the flag does not allow
    (("start_run", {"run_file": "run.toml"}), "nknown tool"),
    (("stop_run", {"run": "runs/run-1"}), "nknown tool"),
    (("shell", {"command": "id"}), "nknown tool"),
]  # fmt: skip


def test_hostile_calls_are_refused(project: Path, tiny_model: Path) -> None:
    """The server answers afterwards, and nothing was written or executed."""
    (project / "link.toml").symlink_to(project.parent / "secret.toml")
    (project / "linked.jsonl").symlink_to(project.parent / "secret.jsonl")
    text = (project / "run.toml").read_text()
    code = "open('executed', 'w')"
    (project / "code.py").write_text(code)
    (project / "code.toml").write_text(f'{text}\n[plugins]\nfiles = ["code.py"]\n')
    before = sorted(project.rglob("*"))

    async def work(client: Client) -> None:
        for (tool, arguments), reason in HOSTILE:
            succeeded, text = await call(client, tool, arguments)
            shown = f"{tool} {str(arguments)[:100]}: {text[:300]}"
            assert not succeeded and reason in text, shown
            assert SECRET not in text and "hidden" not in text and len(text) < 6000, shown
        succeeded, text = await call(client, "runs", {})
        assert succeeded and "run-1" in text

    try:
        talk(project, work, "--read", str(tiny_model))
        assert sorted(project.rglob("*")) == before
    finally:
        for name in ("link.toml", "linked.jsonl", "code.py", "code.toml"):
            (project / name).unlink()


def test_runs_are_started_and_stopped_where_the_flag_allows_it(
    project: Path, tiny_model: Path
) -> None:
    async def work(client: Client) -> None:
        assert "start_run" in {tool.name for tool in (await client.list_tools()).tools}
        deadline = time.monotonic() + 120
        arguments = {"run_file": "run.toml", "changes": {"model.base": "runs/run-1"}}
        succeeded, text = await call(client, "start_run", arguments)
        assert not succeeded and "config.json" in text, text
        arguments["changes"] = {"technique.epochs": 500, "run.side_effects": False}
        stopped = json.loads((await call(client, "start_run", arguments))[1])["run"]
        events = project / stopped / "events.jsonl"
        while not (events.is_file() and "step-finished" in events.read_text()):
            assert time.monotonic() < deadline, "it did not start"
            await anyio.sleep(0.2)
        assert (await call(client, "stop_run", {"run": stopped}))[0]
        while '"run-finished"' not in events.read_text():
            assert time.monotonic() < deadline, "it did not stop"
            await anyio.sleep(0.2)
        assert "stopped by SIGTERM" in events.read_text()
        succeeded, text = await call(client, "report", {"run": stopped})
        assert succeeded and json.loads(text)["run"]["status"] == "stopped"
        assert not (await call(client, "stop_run", {"run": "runs/run-1"}))[0]

    talk(project, work, "--read", str(tiny_model), "--allow-runs")


def test_a_call_that_takes_too_long_is_ended(project: Path, tiny_model: Path) -> None:
    async def work(client: Client) -> None:
        started = time.monotonic()
        succeeded, text = await call(client, "advise", {"run_file": "run.toml"})
        assert not succeeded and "stopped after the time limit of 1 s" in text
        assert time.monotonic() - started < 20

    talk(project, work, "--read", str(tiny_model), "--seconds", "1")
