"""Exporter ``mlx``: a trained model for mlx-lm, checked before."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(__name__, tunesmith_exporters=".offer:MLX")
