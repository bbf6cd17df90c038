"""Recipes for customer service, with an evaluator of replies."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import RecipeOffer

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_recipes=[
        RecipeOffer(
            name="service-replies",
            summary="draft replies to customers in the words and within the policy of a shop",
            package=__name__,
            folder="replies",
        ),
        RecipeOffer(
            name="service-routing",
            summary="route customer messages to the teams of a shop",
            package=__name__,
            folder="routing",
        ),
    ],
    tunesmith_evaluators=".service_reply:SERVICE_REPLY",
)
