"""The commands ``data generate`` and ``data ablate``."""
