"""The exporter passes the conformance kit of tunesmith."""

from __future__ import annotations

from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_gguf import PLUGIN
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

SAMPLE = {"quantize": "f32", "pre_tokenizer": "smollm"}
SAMPLES = {"gguf": SAMPLE, "ollama": SAMPLE}


@parametrize_checks(PLUGIN, model=get_tiny_model_folder, samples=SAMPLES)
def test_contract(check: Any) -> None:
    check()
