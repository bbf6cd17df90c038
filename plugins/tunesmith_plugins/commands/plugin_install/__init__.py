"""Commands ``plugins install`` and ``plugins search``."""
