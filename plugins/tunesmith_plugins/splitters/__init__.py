"""Built-in splitters: ways to divide the records into training, validation and test rows."""
