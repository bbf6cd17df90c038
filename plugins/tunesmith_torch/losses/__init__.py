"""Losses, from hidden states or log-probabilities, as pure functions."""
