"""Reporter ``tensorboard``: write event files for TensorBoard."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(__name__, tunesmith_reporters=".reporter:TENSORBOARD")
