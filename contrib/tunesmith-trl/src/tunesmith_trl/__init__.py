"""Techniques ``trl-grpo`` and ``trl-rloo``: a policy trained by the trainers of TRL."""

from tunesmith.hookspecs import lazy_plugin

GRPO = lazy_plugin(
    __name__, tunesmith_techniques=".offer:GRPO", tunesmith_review_plan=".offer:review_grpo"
)
RLOO = lazy_plugin(
    __name__, tunesmith_techniques=".offer:RLOO", tunesmith_review_plan=".offer:review_rloo"
)
