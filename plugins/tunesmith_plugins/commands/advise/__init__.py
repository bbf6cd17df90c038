"""Command ``advise``: is this task worth tuning? Asked before the whole training is paid for."""
