"""The plugin passes the conformance kit, and the committed rows are the generated ones."""

from __future__ import annotations

import hashlib
import runpy
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tunesmith.records import Completion
from tunesmith.testing import EvaluatorExample, ReviewExample, parametrize_checks
from tunesmith_recipes_code import PLUGIN

PACKAGE = Path(str(resources.files("tunesmith_recipes_code")))


GOOD = 'def get_a(b: int) -> int:\n    """Return b."""\n    return b'
ROWS = [
    Completion(source="row:1", prompt="one", completion=GOOD),
    Completion(source="row:2", prompt="two", completion=GOOD),
    Completion(source="row:3", prompt="three", completion=GOOD),
]
EXAMPLES = {
    "house-style": [
        EvaluatorExample(
            records=ROWS,
            answers={
                "one": GOOD.replace("get_a", "get_other"),
                "two": GOOD.replace("get_a", "getA"),
                "three": "no code",
            },
            values={"conventions-kept": (1, 0, 0), "code-parses": (1, 1, 0)},
        )
    ],
    "tunesmith_review_data": [
        ReviewExample(train=ROWS),
        ReviewExample(
            train=[Completion(source="row:1", prompt="# Copyright (c) 2024 Acme", completion="")],
            finds="copyright",
        ),
    ],
}


@parametrize_checks(PLUGIN, examples=EXAMPLES)
def test_contract(check: Any) -> None:
    check()


@pytest.mark.parametrize("recipe", ["helpers", "triage"])
def test_the_generator_writes_the_committed_files(recipe: str, tmp_path: Path) -> None:
    shutil.copy(PACKAGE / recipe / "generate.py", tmp_path)
    runpy.run_path(str(tmp_path / "generate.py"), run_name="__main__")
    written = [path for path in tmp_path.rglob("*") if path.suffix in (".jsonl", ".md")]
    for path in written:
        committed = PACKAGE / recipe / path.relative_to(tmp_path)
        assert digest(path) == digest(committed), path.name


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
