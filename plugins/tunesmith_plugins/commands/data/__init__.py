"""The ``tunesmith data`` commands: inspect, check, split and fix data."""
