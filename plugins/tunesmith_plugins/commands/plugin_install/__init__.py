"""The ``plugins install`` command: install plugins with pip, and keep those that conform."""
