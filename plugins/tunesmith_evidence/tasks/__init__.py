"""Recognize which kind of task the training rows pose, and read examples from them."""
