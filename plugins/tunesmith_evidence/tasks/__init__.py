"""Recognize what task the training rows pose, and read examples from them."""
