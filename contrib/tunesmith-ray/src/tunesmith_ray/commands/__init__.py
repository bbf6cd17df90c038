"""The commands ``tunesmith ray ...``, one module for each."""
