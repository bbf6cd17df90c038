"""The plugin passes the conformance kit, and the committed rows are the generated ones."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tunesmith.offers import RecipeOffer
from tunesmith.records import Completion
from tunesmith.testing import EvaluatorExample, ReviewExample, parametrize_checks
from tunesmith_recipes_health import PLUGIN, recipes
from tunesmith_recipes_health.formulary import generate as formulary
from tunesmith_recipes_health.orders import generate as orders

PACKAGE = Path(str(resources.files("tunesmith_recipes_health")))
GENERATORS = {"orders": orders, "formulary": formulary}


ROWS = [
    Completion(source="row:1", prompt="Aspirin 100 mg daily.", completion="START aspirin 100 mg"),
    Completion(source="row:2", prompt="Hold the warfarin.", completion="HOLD warfarin"),
    Completion(source="row:3", prompt="Give some insulin.", completion="ASK dose of insulin"),
]
EXAMPLES = {
    "medication": [
        EvaluatorExample(
            records=ROWS,
            answers={
                ROWS[0].prompt: "aspirin 0.1 g",
                ROWS[1].prompt: "",
                ROWS[2].prompt: "insulin",
            },
            values={
                "orders-safe": (1, 0, 0),
                "doses-preserved": (1, 1, 1),
                "negations-preserved": (1, 0, 1),
                "questions-preserved": (1, 1, 0),
            },
        ),
        EvaluatorExample(
            records=ROWS[:1],
            answers={ROWS[0].prompt: "aspirin 10 mg"},
            values={"orders-safe": (0,), "doses-preserved": (0,)},
        ),
    ],
    "tunesmith_review_data": [
        ReviewExample(train=ROWS),
        ReviewExample(
            train=[Completion(source="row:1", prompt="Mrs Okafor coughs.", completion="ok")],
            finds="name",
        ),
    ],
}


@parametrize_checks(PLUGIN, examples=EXAMPLES)
def test_contract(check: Any) -> None:
    check()


@pytest.mark.parametrize("recipe", [recipes.ORDERS, recipes.FORMULARY])
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
