"""Execute a run: phases, events, guards, evaluation, verdict and report."""
