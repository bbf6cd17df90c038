"""Run the ``tunesmith`` command as ``python -m tunesmith``, which is how torchrun starts it."""

from importlib import metadata

# The command line is a layer above the core, so look up this distribution's console script.
scripts = metadata.distribution("tunesmith").entry_points.select(group="console_scripts")
scripts["tunesmith"].load()()
