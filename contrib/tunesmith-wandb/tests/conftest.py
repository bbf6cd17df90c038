"""Fixtures of every test."""

import os

os.environ["WANDB_ERROR_REPORTING"] = "false"  # before wandb is imported

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]
