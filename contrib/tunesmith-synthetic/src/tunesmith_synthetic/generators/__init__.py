"""The generators ``rules``, ``pseudo-label``, ``endpoint`` and ``self``."""
