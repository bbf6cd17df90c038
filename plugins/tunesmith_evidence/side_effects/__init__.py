"""Measure side effects of tuning: on texts and prompts of the user, and by canaries."""
