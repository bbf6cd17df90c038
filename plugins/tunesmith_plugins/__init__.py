"""The built-in plugins: each folder is what a third party would publish."""
