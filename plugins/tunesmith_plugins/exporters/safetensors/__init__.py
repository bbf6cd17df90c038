"""Exporter ``safetensors``: write a plain model folder, and check it with transformers."""
