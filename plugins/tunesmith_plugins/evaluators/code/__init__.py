"""The ``code`` evaluator: measure the share of generated programs that pass their row's tests."""
