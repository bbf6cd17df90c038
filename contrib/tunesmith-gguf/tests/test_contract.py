"""The exporter passes the conformance kit of tunesmith."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tunesmith_gguf
from tunesmith.testing import parametrize_checks
from tunesmith_torch.testing.tiny_model import save_tiny_model


@cache
def tiny_model() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-gguf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_tiny_model(folder / "tiny")


SAMPLE = {"quantize": "f32", "pre_tokenizer": "smollm"}


@parametrize_checks(tunesmith_gguf, model=tiny_model, samples={"gguf": SAMPLE, "ollama": SAMPLE})
def test_contract(check: Any) -> None:
    check()
