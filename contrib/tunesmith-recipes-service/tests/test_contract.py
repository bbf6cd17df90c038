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
from tunesmith.testing import EvaluatorExample, parametrize_checks
from tunesmith_recipes_service import PLUGIN

PACKAGE = Path(str(resources.files("tunesmith_recipes_service")))


ROWS = [
    Completion(source="row:1", prompt="Broken!", completion="We refund 40 EUR. Hygge Home"),
    Completion(source="row:2", prompt="It hurt me!", completion="A supervisor calls. Hygge Home"),
]
OPTIONS = {"actions": {"refund": ["refund"]}, "escalation": ["supervisor"], "brand": ["Hygge Home"]}
EXAMPLES = {
    "service-reply": [
        EvaluatorExample(
            records=ROWS,
            answers={"Broken!": "A refund of 40.00 EUR, Hygge Home", "It hurt me!": "hygge home"},
            values={
                "reply-acceptable": (1, 0),
                "policy-kept": (1, 1),
                "escalation-right": (1, 0),
                "brand-kept": (1, 0),
            },
            options=OPTIONS,
        )
    ]
}


@parametrize_checks(PLUGIN, examples=EXAMPLES)
def test_contract(check: Any) -> None:
    check()


@pytest.mark.parametrize("recipe", ["replies", "routing"])
def test_the_generator_writes_the_committed_files(recipe: str, tmp_path: Path) -> None:
    shutil.copy(PACKAGE / recipe / "generate.py", tmp_path)
    runpy.run_path(str(tmp_path / "generate.py"), run_name="__main__")
    written = [path for path in tmp_path.rglob("*") if path.suffix in (".jsonl", ".md")]
    for path in written:
        committed = PACKAGE / recipe / path.relative_to(tmp_path)
        assert digest(path) == digest(committed), path.name


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
