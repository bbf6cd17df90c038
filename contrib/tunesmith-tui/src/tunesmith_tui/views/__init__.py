"""What each screen shows, as functions of a run's state and a width; none of them reads a log."""
