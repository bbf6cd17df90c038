"""The recipes: one task that is worth tuning for, and one that a small classifier can do."""

from __future__ import annotations

from tunesmith.offers import RecipeOffer

PACKAGE = "tunesmith_recipes_code"
HELPERS = RecipeOffer(
    name="code-helpers",
    summary="write small Python functions in the conventions of a team",
    package=PACKAGE,
    folder="helpers",
)
TRIAGE = RecipeOffer(
    name="code-triage",
    summary="name the cause of a failed build from its last log line",
    package=PACKAGE,
    folder="triage",
)
