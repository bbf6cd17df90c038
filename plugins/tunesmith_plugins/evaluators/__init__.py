"""Built-in evaluators, which measure the answers and losses of models on rows."""

from tunesmith.hookspecs import lazy_plugin

CANARIES = lazy_plugin(
    __name__, tunesmith_evaluators=".canaries:CANARIES", tunesmith_review_data=".canaries:review"
)
CLASSIFICATION = lazy_plugin(__name__, tunesmith_evaluators=".classification.offer:CLASSIFICATION")
CODE = lazy_plugin(__name__, tunesmith_evaluators=".code.offer:CODE")
CONSTRAINED_JSON = lazy_plugin(__name__, tunesmith_evaluators=".constrained_json:CONSTRAINED_JSON")
CONSTRAINED_MATCH = lazy_plugin(
    __name__, tunesmith_evaluators=".constrained_match:CONSTRAINED_MATCH"
)
EXACT_MATCH = lazy_plugin(__name__, tunesmith_evaluators=".exact_match:EXACT_MATCH")
FORGETTING = lazy_plugin(
    __name__,
    tunesmith_evaluators=".forgetting:FORGETTING",
    tunesmith_review_plan=".forgetting:review",
)
JSON_ANSWER = lazy_plugin(__name__, tunesmith_evaluators=".json_answer:JSON_ANSWER")
JUDGE = lazy_plugin(
    __name__, tunesmith_evaluators=".judge:JUDGE", tunesmith_review_plan=".judge:review"
)
KL = lazy_plugin(__name__, tunesmith_evaluators=".kl:KL")
LENGTH = lazy_plugin(__name__, tunesmith_evaluators=".length:LENGTH")
LOSS = lazy_plugin(__name__, tunesmith_evaluators=".loss:LOSS")
MEMORIZATION = lazy_plugin(
    __name__,
    tunesmith_evaluators=".memorization:MEMORIZATION",
    tunesmith_review_data=".memorization:review",
)
NUMERIC = lazy_plugin(__name__, tunesmith_evaluators=".numeric:NUMERIC")
PREFERENCE_ACCURACY = lazy_plugin(
    __name__,
    tunesmith_evaluators=".preference_accuracy:PREFERENCE_ACCURACY",
    tunesmith_review_data=".preference_accuracy:review",
)
GENERAL_LOSS = lazy_plugin(__name__, tunesmith_evaluators=".side_effects:GENERAL_LOSS")
GENERAL_SKILLS = lazy_plugin(__name__, tunesmith_evaluators=".side_effects:GENERAL_SKILLS")
REPEATABILITY = lazy_plugin(__name__, tunesmith_evaluators=".repeatability:REPEATABILITY")
REVIEW = lazy_plugin(
    __name__, tunesmith_evaluators=".review:REVIEW", tunesmith_review_data=".review:review"
)
REWARD_MARGIN = lazy_plugin(
    __name__,
    tunesmith_evaluators=".reward_margin:REWARD_MARGIN",
    tunesmith_review_data=".reward_margin:review",
)
SAFETY = lazy_plugin(
    __name__, tunesmith_evaluators=".safety:SAFETY", tunesmith_review_plan=".safety:review"
)
TEXT_OVERLAP = lazy_plugin(__name__, tunesmith_evaluators=".text_overlap.offer:TEXT_OVERLAP")
TOOL_CALL = lazy_plugin(__name__, tunesmith_evaluators=".tool_call:TOOL_CALL")
WIN_RATE = lazy_plugin(
    __name__, tunesmith_evaluators=".win_rate:WIN_RATE", tunesmith_review_data=".win_rate:review"
)
