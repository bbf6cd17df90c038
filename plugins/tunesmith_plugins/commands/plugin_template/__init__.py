"""Command ``plugins new``: create a plugin project from a template."""
