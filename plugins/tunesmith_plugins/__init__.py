"""Built-in plugins. They use only the interfaces that third-party plugins can use."""
