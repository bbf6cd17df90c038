"""The commands ``tunesmith remote ...``, one module for each."""
