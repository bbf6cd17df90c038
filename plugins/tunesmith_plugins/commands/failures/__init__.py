"""The ``failures`` command: find where a run's tuned model is weak, and which rows would help."""
