"""Built-in checks of the data, before any model is read."""

from tunesmith.hookspecs import lazy_plugin

CHAT_TEMPLATE = lazy_plugin(__name__, tunesmith_review_data=".chat_template:review")
EVALUATORS = lazy_plugin(__name__, tunesmith_review_data=".evaluators:review")
LANGUAGES = lazy_plugin(__name__, tunesmith_review_data=".languages:review")
LEAKS = lazy_plugin(__name__, tunesmith_review_data=".leaks:review_data")
ROWS = lazy_plugin(__name__, tunesmith_review_data=".rows.review:review")
ROW_LENGTHS = lazy_plugin(__name__, tunesmith_review_data=".row_lengths:review_data")
