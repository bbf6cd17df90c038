"""Entry point of ``python -m tunesmith``, which torchrun starts: the command ``tunesmith``."""

from importlib import metadata

# The command line is above the core, so it is found as the console script of this distribution.
scripts = metadata.distribution("tunesmith").entry_points.select(group="console_scripts")
scripts["tunesmith"].load()()
