"""Commands ``init`` and ``example``: write a run file to edit, or copy an example project."""
