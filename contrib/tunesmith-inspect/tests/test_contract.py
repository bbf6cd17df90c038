"""The evaluator and the command pass the conformance kit of tunesmith."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from task_files import write_task

from tunesmith.testing import parametrize_checks
from tunesmith_inspect import PLUGIN

FOLDER = tempfile.TemporaryDirectory()
TASK = f"{write_task(Path(FOLDER.name))}:capitals"


@parametrize_checks(PLUGIN, samples={"inspect": {"task": TASK, "log_dir": FOLDER.name}})
def test_contract(check: Any) -> None:
    check()
