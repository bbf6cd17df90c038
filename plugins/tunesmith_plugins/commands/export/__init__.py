"""Command ``export``: write a trained model for the engine that will serve it."""
