"""Reporter ``wandb``: send runs to Weights & Biases, or write them to a folder."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(__name__, tunesmith_reporters=".reporter:WANDB")
