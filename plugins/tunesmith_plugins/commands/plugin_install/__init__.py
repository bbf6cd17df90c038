"""Command ``plugins install``: install plugins with pip, and keep those that conform."""
