"""The ``onnx`` exporter: write a trained model for ONNX Runtime, and verify it."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(__name__, tunesmith_exporters=".offer:ONNX")
