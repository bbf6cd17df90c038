"""Recipes for health care, with an evaluator of medication orders and a check for patient data."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import RecipeOffer

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_recipes=[
        RecipeOffer(
            name="health-orders",
            summary="write dictated medication orders in the notation of a ward",
            package=__name__,
            folder="orders",
        ),
        RecipeOffer(
            name="health-formulary",
            summary="answer questions from the drug formulary of a hospital",
            package=__name__,
            folder="formulary",
        ),
    ],
    tunesmith_evaluators=".medication:MEDICATION",
    tunesmith_review_data=".patient_data:review",
)
