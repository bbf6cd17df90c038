"""Command ``runs``: list, find and delete runs."""
