"""The content of each screen, as functions of a run's state and a width, without reading a log."""
