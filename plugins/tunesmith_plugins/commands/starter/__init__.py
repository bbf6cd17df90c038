"""The ``init`` command: write a run file for the user to edit, or copy an example project."""
