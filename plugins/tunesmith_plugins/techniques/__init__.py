"""Built-in techniques, which train a model or measure an existing one."""

from tunesmith.hookspecs import lazy_plugin

EXISTING = lazy_plugin(__name__, tunesmith_techniques=".existing.offer:EXISTING")
FULL = lazy_plugin(
    __name__,
    tunesmith_techniques=".full.offer:FULL",
    tunesmith_review_plan=".full.offer:review_plan",
)
LORA = lazy_plugin(
    __name__,
    tunesmith_techniques=".lora.offer:LORA",
    tunesmith_review_plan=".lora.offer:review_plan",
)
PREFERENCE = lazy_plugin(
    __name__,
    tunesmith_techniques=".preference.offer:PREFERENCE",
    tunesmith_review_data=".preference.review:review_labels",
)
QLORA = lazy_plugin(__name__, tunesmith_techniques=".qlora.offer:QLORA")
RLHF = lazy_plugin(
    __name__,
    tunesmith_techniques=".rlhf.offer:RLHF",
    tunesmith_review_plan=".rlhf.offer:review_plan",
)
