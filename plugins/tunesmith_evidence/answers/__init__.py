"""Generate a model's answers, and compare them with reference answers."""
