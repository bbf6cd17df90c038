"""Command ``init``: write a run file to edit, or copy an example project."""
