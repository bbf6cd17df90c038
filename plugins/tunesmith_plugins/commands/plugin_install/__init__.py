"""Commands ``plugins install``, ``uninstall``, ``outdated`` and ``search``."""
