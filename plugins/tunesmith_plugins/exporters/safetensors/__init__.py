"""The ``safetensors`` exporter: write a plain model folder, and check it with transformers."""
