"""Use a model behind an OpenAI-compatible endpoint as a judge, or evaluate the model."""
