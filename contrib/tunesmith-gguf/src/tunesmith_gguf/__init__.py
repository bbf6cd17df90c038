"""The ``gguf`` and ``ollama`` exporters: write a model for llama.cpp or Ollama, and verify it."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(__name__, tunesmith_exporters=[".offer:GGUF", ".offer:OLLAMA"])
