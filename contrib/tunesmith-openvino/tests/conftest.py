"""Fixtures of every test: tiny models."""

from __future__ import annotations

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]
