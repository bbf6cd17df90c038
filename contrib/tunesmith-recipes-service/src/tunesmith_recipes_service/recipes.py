"""The recipes: one task that is worth tuning for, and one that a small classifier can do."""

from __future__ import annotations

from tunesmith.offers import RecipeOffer

PACKAGE = "tunesmith_recipes_service"
REPLIES = RecipeOffer(
    name="service-replies",
    summary="draft replies to customers in the words and within the policy of a shop",
    package=PACKAGE,
    folder="replies",
)
ROUTING = RecipeOffer(
    name="service-routing",
    summary="route customer messages to the teams of a shop",
    package=PACKAGE,
    folder="routing",
)
