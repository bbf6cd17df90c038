"""Built-in exporters, one folder each."""

from tunesmith.hookspecs import lazy_plugin

SAFETENSORS = lazy_plugin(__name__, tunesmith_exporters=".safetensors.offer:SAFETENSORS")
