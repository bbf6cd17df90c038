"""The plugin passes the conformance kit, and the committed rows are the generated ones."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tunesmith.offers import RecipeOffer
from tunesmith.records import Completion
from tunesmith.testing import EvaluatorExample, ReviewExample, parametrize_checks
from tunesmith_recipes_code import PLUGIN, recipes
from tunesmith_recipes_code.helpers import generate as helpers
from tunesmith_recipes_code.triage import generate as triage

PACKAGE = Path(str(resources.files("tunesmith_recipes_code")))
GENERATORS = {"helpers": helpers, "triage": triage}


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


@pytest.mark.parametrize("recipe", [recipes.HELPERS, recipes.TRIAGE])
def test_the_generator_writes_the_committed_files(
    recipe: RecipeOffer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = GENERATORS[recipe.folder]
    monkeypatch.setattr(module, "__file__", str(tmp_path / "generate.py"))
    module.main()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 2
    for path in written:
        committed = PACKAGE / recipe.folder / path.relative_to(tmp_path)
        assert path.read_bytes() == committed.read_bytes(), path.name
