"""Environment of tests, for pytest: ``pytest_plugins = ["tunesmith.testing.clean_environment"]``.

Libraries use one thread, ask no hub, and find no variable of tunesmith, in new processes too.
"""

from __future__ import annotations

import os

import pytest

VARIABLES = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def pytest_configure(config: pytest.Config) -> None:
    """Set the variables before a test imports torch, which reads them then."""
    os.environ.update(VARIABLES)
    for name in [n for n in os.environ if n.startswith("TUNESMITH_")]:
        del os.environ[name]
