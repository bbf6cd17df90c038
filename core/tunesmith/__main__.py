"""Entry point of ``python -m tunesmith``, which torchrun starts: the command ``tunesmith``."""

from importlib import metadata

# The command line lives above the core, so look up the console script of this distribution.
scripts = metadata.distribution("tunesmith").entry_points.select(group="console_scripts")
scripts["tunesmith"].load()()
