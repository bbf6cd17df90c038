"""The ``plugins list``, ``plugins show`` and ``explain`` commands: show plugins and options."""
