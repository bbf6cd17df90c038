"""Technique ``sparse``: train a few weights of each linear layer; the artifact is a small delta."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_techniques=".offer:SPARSE",
    tunesmith_review_plan=".offer:review_plan",
    tunesmith_review_model=".offer:review_model",
)
