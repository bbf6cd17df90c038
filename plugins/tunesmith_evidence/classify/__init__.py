"""Answers without a language model: classifiers of texts."""
