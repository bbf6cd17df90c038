"""The ``data annotate`` command: choose the better of two answers to create preference data."""
