"""The plugin passes the conformance kit, and the committed rows are the generated ones."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tunesmith.offers import RecipeOffer
from tunesmith.records import Completion
from tunesmith.testing import EvaluatorExample, parametrize_checks
from tunesmith_recipes_service import PLUGIN, recipes
from tunesmith_recipes_service.replies import generate as replies
from tunesmith_recipes_service.routing import generate as routing

PACKAGE = Path(str(resources.files("tunesmith_recipes_service")))
GENERATORS = {"replies": replies, "routing": routing}


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


@pytest.mark.parametrize("recipe", [recipes.REPLIES, recipes.ROUTING])
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
