"""Reporter ``trackio``: write runs to the local database of trackio."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(__name__, tunesmith_reporters=".reporter:TRACKIO")
