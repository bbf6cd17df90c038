"""Evaluator ``code``: share of programs that pass the tests of their row."""
