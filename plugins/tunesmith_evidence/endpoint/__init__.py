"""Use a model at an OpenAI-compatible endpoint as a judge, or evaluate it."""
