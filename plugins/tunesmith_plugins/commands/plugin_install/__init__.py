"""Command ``plugins install``."""
