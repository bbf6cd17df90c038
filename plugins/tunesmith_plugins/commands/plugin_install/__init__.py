"""The ``plugins install`` command: install plugins with pip, and keep them if all conform."""
