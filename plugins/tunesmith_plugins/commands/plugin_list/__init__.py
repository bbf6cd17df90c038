"""Commands ``plugins list``, ``plugins show`` and ``explain``: list plugins and their options."""
