"""The ``serve`` command: an OpenAI-compatible server for the models of a run."""
