"""Clean test environment, for pytest: ``pytest_plugins = ["tunesmith.testing.clean_environment"]``.

Libraries use one thread and contact no hub, and tunesmith's variables are unset, even in new
processes.
"""

from __future__ import annotations

import os

import pytest

VARIABLES = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def pytest_configure(config: pytest.Config) -> None:
    """Set the variables before any test imports torch, which reads them on import."""
    os.environ.update(VARIABLES)
    for name in [n for n in os.environ if n.startswith("TUNESMITH_")]:
        del os.environ[name]
