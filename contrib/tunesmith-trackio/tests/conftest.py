"""Fixtures of every test."""

import os
import tempfile

FOLDER = tempfile.TemporaryDirectory()
os.environ["TRACKIO_DIR"] = FOLDER.name  # before trackio is imported

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]
