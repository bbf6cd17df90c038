"""Exporter ``safetensors``: one plain model folder, checked in transformers."""
