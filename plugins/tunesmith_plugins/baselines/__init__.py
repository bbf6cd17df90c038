"""Built-in baselines, which attempt the task without fine-tuning."""

from tunesmith.hookspecs import lazy_plugin

ANSWER_LENGTH = lazy_plugin(
    __name__,
    tunesmith_baselines=".answer_length:ANSWER_LENGTH",
    tunesmith_review_plan=".answer_length:review",
)
BEST_OF_N = lazy_plugin(
    __name__, tunesmith_baselines=".best_of_n:BEST_OF_N", tunesmith_review_plan=".best_of_n:review"
)
DOCUMENTS = lazy_plugin(
    __name__, tunesmith_baselines=".documents:DOCUMENTS", tunesmith_review_plan=".documents:review"
)
EMBEDDING = lazy_plugin(__name__, tunesmith_baselines=(".embedding:EMBEDDING", ".embedding:PROBE"))
FIELDS = lazy_plugin(__name__, tunesmith_baselines=".fields:FIELDS")
LINEAR = lazy_plugin(__name__, tunesmith_baselines=".linear:LINEAR")
MAJORITY = lazy_plugin(__name__, tunesmith_baselines=".majority:MAJORITY")
NEAREST = lazy_plugin(__name__, tunesmith_baselines=".nearest:NEAREST")
PROMPT = lazy_plugin(__name__, tunesmith_baselines=".prompt:PROMPT")
RANDOM_SHOTS = lazy_plugin(__name__, tunesmith_baselines=".random_shots:RANDOM_SHOTS")
RETRIEVED_SHOTS = lazy_plugin(__name__, tunesmith_baselines=".retrieved_shots:RETRIEVED_SHOTS")
ZERO_SHOT = lazy_plugin(
    __name__, tunesmith_baselines=".zero_shot:ZERO_SHOT", tunesmith_review_data=".zero_shot:review"
)
