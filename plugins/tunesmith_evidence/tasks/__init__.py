"""Recognize the kind of task in the training rows, and read examples from the rows."""
