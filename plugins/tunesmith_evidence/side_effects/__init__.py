"""Measure side effects of tuning, on the user's texts and prompts, and with canaries."""
