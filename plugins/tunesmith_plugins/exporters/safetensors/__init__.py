"""Exporter ``safetensors``: a plain model folder, checked with transformers."""
