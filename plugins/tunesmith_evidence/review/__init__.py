"""Automate the answers that a model is confident about, and send the others to people."""
