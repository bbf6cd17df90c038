"""The tools of the server. Each is a command of tunesmith, whose JSON goes to the assistant."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated

import anyio
import tomli_w
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from tunesmith.errors import TunesmithError
from tunesmith.storage import RunFolder
from tunesmith.text import redact, safe_text
from tunesmith_mcp.process import CommandFailed, run_command, start_run
from tunesmith_mcp.workspace import Workspace

Tool = Callable[..., Awaitable[str]]
Place = Annotated[str, Field(min_length=1, max_length=1000)]
RunFilePath = Annotated[Place, Field(description="Run file, relative to the shared folder.")]
RunPath = Annotated[Place, Field(description="Run folder, relative to the shared folder.")]
Text = Annotated[str, Field(max_length=1000)]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]*$")]
Changes = Annotated[
    Annotated[dict[Key, bool | int | float | Text], Field(max_length=50)] | None,
    Field(description="Run-file keys to change, such as technique.epochs."),
]
MAX_CALLS = 2
"""Commands that run at the same time; further calls wait."""
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)


@dataclass
class Tools:
    """The tools of one workspace. Each checks its paths, and then runs the command."""

    workspace: Workspace
    seconds: float
    _started: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)
    _places: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(MAX_CALLS))

    async def check(self, run_file: RunFilePath, changes: Changes = None) -> str:
        """Validate a run file and its data: errors, skipped rows, findings. No model is loaded."""
        return await self._on_run_file("check", run_file, changes)

    async def plan(self, run_file: RunFilePath, changes: Changes = None) -> str:
        """Estimate memory, time and cost of a run before training, and the GPUs that it fits on."""
        return await self._on_run_file("plan", run_file, changes)

    async def advise(self, run_file: RunFilePath, changes: Changes = None) -> str:
        """Predict whether fine-tuning is worth it, from baselines and three short trainings.

        It loads the model and computes for minutes.
        """
        return await self._on_run_file("advise", run_file, changes)

    async def report(self, run: RunPath) -> str:
        """Return the results of a run: verdict, scores with intervals, losses, warnings."""
        return await self._call("report", str(self._run(run)), "--failures", "5")

    async def failures(self, run: RunPath, items: Annotated[int, Field(ge=0, le=20)] = 3) -> str:
        """Find where a run's model fails: weak slices, the worst rows, what tuning made worse."""
        return await self._call("failures", str(self._run(run)), "--items", str(items))

    async def compare(
        self, runs: Annotated[list[Place], Field(min_length=2, max_length=20)]
    ) -> str:
        """Compare runs with the first one on the same test rows: paired differences, intervals."""
        return await self._call("compare", *[str(self._run(run)) for run in runs])

    async def runs(
        self,
        folder: Annotated[Place, Field(description="Folder of runs.")] = "runs",
        limit: Annotated[int, Field(ge=1, le=200)] = 20,
    ) -> str:
        """List the runs in a folder, newest first, with status, verdict and technique."""
        found = str(self.workspace.find(folder))
        return await self._call("runs", found, "--limit", str(limit))

    async def start_run(self, run_file: RunFilePath, changes: Changes = None) -> str:
        """Start a run in the background and return its folder, for `report` and `stop_run`."""
        found = self.workspace.find_run_file(run_file, changes or {})
        folder = self.workspace.root / "runs" / f"{found.stem}-{secrets.token_hex(4)}"
        words = ["run", str(found), *set_words(changes), "--out", str(folder), "--quiet"]
        self._started[folder] = await start_run(words, found.parent, folder, self.seconds)
        return json.dumps({"run": str(folder.relative_to(self.workspace.root))})

    async def stop_run(self, run: RunPath) -> str:
        """Stop a run that this server started, after its current step; it can be resumed."""
        process = self._started.get(self._run(run))
        if process is None:
            raise ToolError(f"{run!r}: was not started by this server")
        process.terminate()
        return json.dumps({"stopping": run})

    async def _on_run_file(self, command: str, run_file: str, changes: Changes) -> str:
        found = self.workspace.find_run_file(run_file, changes or {})
        return await self._call(command, str(found), *set_words(changes), cwd=found.parent)

    def _run(self, path: str) -> Path:
        return RunFolder.open(self.workspace.find(path)).path

    async def _call(self, *words: str, cwd: Path | None = None) -> str:
        # Some relative paths start at the working folder: it must be the one they were checked for.
        folder = cwd or self.workspace.root
        async with self._places:
            printed = await run_command([*words, "--json"], folder, self.seconds)
        return redact(printed)


def set_words(changes: Changes) -> Sequence[str]:
    """Return the options ``--set`` of the changes.

    A value must be valid TOML: the command takes other text as it is, which was not checked.
    """
    pairs = [f"{key}={write_value(value)}" for key, value in (changes or {}).items()]
    return [word for pair in pairs for word in ("--set", pair)]


def write_value(value: bool | int | float | str) -> str:
    """Return a value as TOML."""
    return tomli_w.dumps({"value": value}).removeprefix("value = ").removesuffix("\n")


def explain_errors(tool: Tool) -> Tool:
    """Return the tool with errors that an assistant can read."""

    @wraps(tool)
    async def explained(*args: object, **kwargs: object) -> str:
        try:
            return await tool(*args, **kwargs)
        except TunesmithError as error:
            text = f"{error}\n\nhint: {error.hint}" if error.hint else str(error)
            raise ToolError(redact(safe_text(text))) from None
        except CommandFailed as error:
            raise ToolError(redact(safe_text(str(error)))) from None

    return explained


def build_server(workspace: Workspace, *, seconds: float, allow_runs: bool) -> MCPServer:
    """Return the server of a workspace."""
    server = MCPServer(
        "tunesmith",
        version=metadata.version("tunesmith-mcp"),
        instructions=resources.files(__package__).joinpath("SKILL.md").read_text("utf-8"),
        log_level="WARNING",
    )
    tools = Tools(workspace, seconds)
    reading = (tools.check, tools.plan, tools.report, tools.failures, tools.compare, tools.runs)
    writing = (tools.advise, tools.start_run, tools.stop_run)
    groups: list[tuple[ToolAnnotations, Sequence[Tool]]]
    groups = [(READS, reading), (WRITES, writing if allow_runs else writing[:1])]
    for hints, offered in groups:
        for tool in offered:
            server.tool(annotations=hints, structured_output=False)(explain_errors(tool))
    return server
