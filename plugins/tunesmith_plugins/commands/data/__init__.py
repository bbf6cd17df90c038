"""Commands ``tunesmith data ...``: inspect, check, split and fix data."""
