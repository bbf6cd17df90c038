"""Exporter ``onnx``: a trained model for ONNX Runtime, checked before."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(__name__, tunesmith_exporters=".offer:ONNX")
