"""Technique ``classifier``: a classification head on a language model, for known labels."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_techniques=".offer:CLASSIFIER",
    tunesmith_commands=CommandOffer(
        name="classifier export",
        summary="Export a classifier to ONNX, checked in ONNX Runtime.",
        load="tunesmith_classifier.export_command:command",
        section="Use",
    ),
)
