"""The ``trl-grpo`` and ``trl-rloo`` techniques: train a policy with TRL's trainers."""

from tunesmith.hookspecs import lazy_plugin

GRPO = lazy_plugin(
    __name__, tunesmith_techniques=".offer:GRPO", tunesmith_review_plan=".offer:review_grpo"
)
RLOO = lazy_plugin(
    __name__, tunesmith_techniques=".offer:RLOO", tunesmith_review_plan=".offer:review_rloo"
)
