"""The ``next`` command: write the run file of a run's next iteration, with more rows."""
