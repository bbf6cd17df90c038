"""Built-in baselines: ways to solve the task of a run without tuning."""
