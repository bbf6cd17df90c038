"""Command ``evaluate``: measure a trained model, an endpoint, or any other model, on rows."""
