"""The ``mlx`` exporter: write a trained model for mlx-lm, and verify it."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(__name__, tunesmith_exporters=".offer:MLX")
