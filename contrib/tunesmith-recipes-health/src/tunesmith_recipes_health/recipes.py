"""The recipes: one task that is worth tuning for, and one that is better left to documents."""

from __future__ import annotations

from tunesmith.offers import RecipeOffer

PACKAGE = "tunesmith_recipes_health"
ORDERS = RecipeOffer(
    name="health-orders",
    summary="write dictated medication orders in the notation of a ward",
    package=PACKAGE,
    folder="orders",
)
FORMULARY = RecipeOffer(
    name="health-formulary",
    summary="answer questions from the drug formulary of a hospital",
    package=PACKAGE,
    folder="formulary",
)
