"""The exporter passes the conformance kit of tunesmith."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from small_model import save_small_model

from tunesmith.testing import parametrize_checks
from tunesmith_vllm import PLUGIN


@cache
def tiny_model() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-vllm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_small_model(folder / "tiny")


@parametrize_checks(PLUGIN, model=tiny_model)
def test_contract(check: Any) -> None:
    check()
