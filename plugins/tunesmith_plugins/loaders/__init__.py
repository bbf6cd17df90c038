"""Built-in data loaders."""
