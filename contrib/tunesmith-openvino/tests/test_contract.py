"""The exporter passes the conformance kit of tunesmith."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tunesmith_openvino
from tunesmith.testing import parametrize_checks
from tunesmith_torch.testing.tiny_model import save_tiny_model


@cache
def tiny_model() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-openvino-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_tiny_model(folder / "tiny")


@parametrize_checks(tunesmith_openvino, model=tiny_model)
def test_contract(check: Any) -> None:
    check()
