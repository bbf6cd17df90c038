"""Evaluator ``code``: share of generated programs that pass the tests of their row."""
