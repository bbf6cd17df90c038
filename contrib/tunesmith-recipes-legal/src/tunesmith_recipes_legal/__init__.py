"""Recipes for legal work, with an evaluator of contract reviews and a check for privilege."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import RecipeOffer

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_recipes=[
        RecipeOffer(
            name="legal-reviews",
            summary="list the clauses of a contract that depart from a playbook, with their risk",
            package=__name__,
            folder="reviews",
        ),
        RecipeOffer(
            name="legal-clauses",
            summary="name the type of a contract clause",
            package=__name__,
            folder="clauses",
        ),
    ],
    tunesmith_evaluators=".clause_review:CLAUSE_REVIEW",
    tunesmith_review_data=".privilege:review",
)
