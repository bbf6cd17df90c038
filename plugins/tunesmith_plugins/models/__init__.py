"""Built-in finders of base models."""
