"""Technique ``classifier``: a classification head on a language model, for known labels."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(__name__, tunesmith_techniques=".offer:CLASSIFIER")
