"""The ``vllm`` exporter: write a folder or an adapter for vLLM, and verify it there."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(__name__, tunesmith_exporters=".offer:VLLM")
