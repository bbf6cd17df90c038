"""The ``runs`` command: list, find and delete runs."""
