"""The recipes: one task that is worth tuning for, and one that a small classifier can do."""

from __future__ import annotations

from tunesmith.offers import RecipeOffer

PACKAGE = "tunesmith_recipes_legal"
REVIEWS = RecipeOffer(
    name="legal-reviews",
    summary="list the clauses of a contract that depart from a playbook, with their risk",
    package=PACKAGE,
    folder="reviews",
)
CLAUSES = RecipeOffer(
    name="legal-clauses",
    summary="name the type of a contract clause",
    package=PACKAGE,
    folder="clauses",
)
