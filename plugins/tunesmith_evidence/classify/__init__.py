"""Answers without a language model: classifiers of texts, and of the fields of JSON answers."""
