"""Recipes for software teams, with an evaluator of conventions and a check for licenses."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import RecipeOffer

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_recipes=[
        RecipeOffer(
            name="code-helpers",
            summary="write small Python functions in the conventions of a team",
            package=__name__,
            folder="helpers",
        ),
        RecipeOffer(
            name="code-triage",
            summary="name the cause of a failed build from its last log line",
            package=__name__,
            folder="triage",
        ),
    ],
    tunesmith_evaluators=".house_style:HOUSE_STYLE",
    tunesmith_review_data=".licenses:review",
)
