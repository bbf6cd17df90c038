"""Command ``failures``: find where the tuned model of a run is weak, and the rows to learn from."""
