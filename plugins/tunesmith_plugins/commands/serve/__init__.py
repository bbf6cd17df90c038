"""Command ``serve``: an OpenAI-compatible server for the models of a run."""
