"""Technique ``distill``: train a student on the data and on a teacher's predictions."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_techniques=".offer:DISTILL",
    tunesmith_review_plan=".offer:review_plan",
)
