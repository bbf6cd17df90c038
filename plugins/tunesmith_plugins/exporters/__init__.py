"""Built-in exporters, each in its own folder."""

from tunesmith.hookspecs import lazy_plugin

SAFETENSORS = lazy_plugin(__name__, tunesmith_exporters=".safetensors.offer:SAFETENSORS")
