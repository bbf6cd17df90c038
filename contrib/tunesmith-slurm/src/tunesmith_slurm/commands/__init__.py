"""The commands ``tunesmith slurm ...``, one module for each."""
