"""The commands ``tunesmith remote ...``, one per module."""
