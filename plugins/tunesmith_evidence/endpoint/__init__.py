"""Use a model behind an OpenAI-compatible endpoint, as a judge or to evaluate it."""
