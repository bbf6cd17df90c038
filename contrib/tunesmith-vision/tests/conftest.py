"""Fixtures of every test: a tiny model."""

from __future__ import annotations

import os

# Before torch is imported by anybody.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in [n for n in os.environ if n.startswith("TUNESMITH_")]:
    del os.environ[name]

pytest_plugins = ["tunesmith.testing.fixtures", "tunesmith_torch.testing.fixtures"]
