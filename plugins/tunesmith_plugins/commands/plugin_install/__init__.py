"""Commands ``plugins install`` and ``search``."""
