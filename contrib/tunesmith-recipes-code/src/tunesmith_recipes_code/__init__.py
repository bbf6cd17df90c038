"""Recipes for software teams, with an evaluator of conventions and a check for licenses."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_recipes=[".recipes:HELPERS", ".recipes:TRIAGE"],
    tunesmith_evaluators=".house_style:HOUSE_STYLE",
    tunesmith_review_data=".licenses:review",
)
