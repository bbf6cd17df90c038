"""Evaluator ``lm-eval``: measure models on a task of lm-evaluation-harness."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(__name__, tunesmith_evaluators=".offer:LM_EVAL")
