"""Built-in rivals: ways to solve the task of a run without tuning."""
