"""The ``evaluate`` command: evaluate a run's model, an endpoint or any other model on rows."""
