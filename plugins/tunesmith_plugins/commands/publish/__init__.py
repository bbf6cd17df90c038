"""Commands ``push`` and ``pull``: trained models to and from a hub."""
