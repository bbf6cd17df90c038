"""Recipes for health care, with an evaluator of medication orders and a check for patient data."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_recipes=[".recipes:ORDERS", ".recipes:FORMULARY"],
    tunesmith_evaluators=".medication:MEDICATION",
    tunesmith_review_data=".patient_data:review",
)
