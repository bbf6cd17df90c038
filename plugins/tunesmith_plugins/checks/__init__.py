"""Built-in checks of the data. They run before any model is loaded."""

from tunesmith.hookspecs import lazy_plugin

_NUMPY = ("numpy>=1.26",)
_TORCH = ("torch>=2.11", "transformers>=5.17")

CHAT_TEMPLATE = lazy_plugin(
    __name__,
    needs=_TORCH,
    tunesmith_review_data=".chat_template:review",
)
EVALUATORS = lazy_plugin(__name__, tunesmith_review_data=".evaluators:review")
PARAPHRASES = lazy_plugin(__name__, needs=_NUMPY, tunesmith_review_data=".paraphrases:review")
FEW_ROWS = lazy_plugin(__name__, needs=_NUMPY, tunesmith_review_data=".few_rows:review")
KNOWLEDGE = lazy_plugin(__name__, tunesmith_review_data=".knowledge:review")
LANGUAGES = lazy_plugin(__name__, needs=_NUMPY, tunesmith_review_data=".languages:review")
LEAKS = lazy_plugin(__name__, needs=_NUMPY, tunesmith_review_data=".leaks:review_data")
ROWS = lazy_plugin(__name__, needs=_NUMPY, tunesmith_review_data=".rows.review:review")
ROW_LENGTHS = lazy_plugin(
    __name__,
    needs=_TORCH,
    tunesmith_review_data=".row_lengths:review_data",
)
