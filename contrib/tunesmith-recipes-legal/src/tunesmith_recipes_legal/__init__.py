"""Recipes for legal work, with an evaluator of contract reviews and a check for privilege."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_recipes=[".recipes:REVIEWS", ".recipes:CLAUSES"],
    tunesmith_evaluators=".clause_review:CLAUSE_REVIEW",
    tunesmith_review_data=".privilege:review",
)
