"""Data loader ``traces``: read calls of language models that a service has recorded."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(__name__, tunesmith_data_loaders=".offer:TRACES")
