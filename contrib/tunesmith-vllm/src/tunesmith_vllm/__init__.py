"""Exporter ``vllm``: a folder or an adapter that vLLM serves, checked there before."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(__name__, tunesmith_exporters=".offer:VLLM")
