"""Judge a run by comparing the tuned model with the best solution without fine-tuning."""

from tunesmith.hookspecs import lazy_plugin

VERDICT = lazy_plugin(
    __name__,
    needs=("numpy>=1.26",),
    tunesmith_tables=".offer:VERDICT",
    tunesmith_review_data=".label_noise:review_labels",
    tunesmith_verdict=".rule:give_verdict",
)
