"""Text classifiers, which answer without a language model."""
