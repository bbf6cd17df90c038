"""Built-in checks of the data, before any model is read."""
