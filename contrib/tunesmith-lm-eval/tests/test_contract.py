"""The evaluator passes the conformance kit of tunesmith."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from task_files import write_task

from tunesmith.testing import parametrize_checks
from tunesmith_lm_eval import PLUGIN

FOLDER = tempfile.TemporaryDirectory()
TASK = str(write_task(Path(FOLDER.name)))


@parametrize_checks(PLUGIN, samples={"lm-eval": {"task": TASK}})
def test_contract(check: Any) -> None:
    check()
