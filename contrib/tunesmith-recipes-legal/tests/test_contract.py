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
from tunesmith_recipes_legal import PLUGIN

PACKAGE = Path(str(resources.files("tunesmith_recipes_legal")))


ROWS = [
    Completion(source="row:1", prompt="7.1 No liability.", completion="HIGH 7.1 liability"),
    Completion(source="row:2", prompt="3.2 Ninety days.", completion="MEDIUM 3.2 notice"),
    Completion(source="row:3", prompt="5.1 All is well.", completion="OK"),
]
EXAMPLES = {
    "clause-review": [
        EvaluatorExample(
            records=ROWS,
            answers={
                ROWS[0].prompt: "Clause 7.1 is a high risk",
                ROWS[1].prompt: "HIGH 3.2 notice",
                ROWS[2].prompt: "MEDIUM 5.9 payment",
            },
            values={
                "review-sound": (1, 0, 0),
                "citations-exist": (1, 1, 0),
                "citations-right": (1, 1, 0),
                "risks-right": (1, 0, 0),
            },
        )
    ],
    "tunesmith_review_data": [
        ReviewExample(train=ROWS),
        ReviewExample(
            train=[Completion(source="row:1", prompt="Attorney-client memo", completion="ok")],
            finds="privilege",
        ),
    ],
}


@parametrize_checks(PLUGIN, examples=EXAMPLES)
def test_contract(check: Any) -> None:
    check()


@pytest.mark.parametrize("recipe", ["reviews", "clauses"])
def test_the_generator_writes_the_committed_files(recipe: str, tmp_path: Path) -> None:
    shutil.copy(PACKAGE / recipe / "generate.py", tmp_path)
    runpy.run_path(str(tmp_path / "generate.py"), run_name="__main__")
    written = [path for path in tmp_path.rglob("*") if path.suffix in (".jsonl", ".md")]
    for path in written:
        committed = PACKAGE / recipe / path.relative_to(tmp_path)
        assert digest(path) == digest(committed), path.name


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
