"""Automate the answers that a model is sure about, and leave the others to people."""
