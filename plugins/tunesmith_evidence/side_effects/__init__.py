"""Measure side effects of fine-tuning on the user's texts and prompts, and with canaries."""
