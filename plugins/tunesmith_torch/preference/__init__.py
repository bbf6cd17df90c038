"""Training on pairs of answers."""
