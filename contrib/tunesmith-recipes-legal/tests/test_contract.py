"""The plugin passes the conformance kit, and the committed rows are the generated ones."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tunesmith.offers import RecipeOffer
from tunesmith.records import Completion
from tunesmith.testing import EvaluatorExample, ReviewExample, parametrize_checks
from tunesmith_recipes_legal import PLUGIN, recipes
from tunesmith_recipes_legal.clauses import generate as clauses
from tunesmith_recipes_legal.reviews import generate as reviews

PACKAGE = Path(str(resources.files("tunesmith_recipes_legal")))
GENERATORS = {"reviews": reviews, "clauses": clauses}


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


@pytest.mark.parametrize("recipe", [recipes.REVIEWS, recipes.CLAUSES])
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
