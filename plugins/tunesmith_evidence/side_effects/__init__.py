"""Measure what tuning costs elsewhere: texts and prompts of the user, canaries, refusals."""
