"""Exporter ``openvino``: a trained model for OpenVINO GenAI, checked before."""

from tunesmith.hookspecs import lazy_plugin

PLUGIN = lazy_plugin(__name__, tunesmith_exporters=".offer:OPENVINO")
