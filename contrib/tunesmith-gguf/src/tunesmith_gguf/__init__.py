"""Exporters ``gguf`` and ``ollama``: a trained model for llama.cpp or Ollama, checked before."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(__name__, tunesmith_exporters=[".offer:GGUF", ".offer:OLLAMA"])
