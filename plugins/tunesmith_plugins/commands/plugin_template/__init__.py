"""The ``plugins new`` command: create a plugin project from a template."""
