"""The ``console`` reporter: show progress on the terminal, as a live display or as plain lines."""
