"""Recipes for customer service, with an evaluator of replies."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_recipes=[".recipes:REPLIES", ".recipes:ROUTING"],
    tunesmith_evaluators=".service_reply:SERVICE_REPLY",
)
