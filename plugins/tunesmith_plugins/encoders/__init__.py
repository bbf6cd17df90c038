"""Built-in encoders, which convert texts to vectors."""

from tunesmith.hookspecs import lazy_plugin

SENTENCE_ENCODER = lazy_plugin(
    __name__,
    tunesmith_encoders=".sentence_encoder:SENTENCE_ENCODER",
    tunesmith_review_plan=".sentence_encoder:review",
)
