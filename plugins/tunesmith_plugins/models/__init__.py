"""Built-in plugins that find base models in folders, in files and on the Hub."""

from tunesmith.hookspecs import lazy_plugin

GGUF = lazy_plugin(__name__, tunesmith_find_model=".gguf:find_model")
HUGGINGFACE = lazy_plugin(
    __name__,
    tunesmith_find_model=".huggingface:find_model",
    tunesmith_review_plan=".huggingface:review_plan",
)
