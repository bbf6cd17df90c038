"""The planner's tracer against a few published measurements; all of them: ``memory_cases``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks.memory_cases import Outcome, predict, summary
from tests.benchmarks.public_models import config_of

from tunesmith_torch.planner.shape import Shape

FILE = Path(__file__).parents[3] / "shared" / "data" / "memory_cases.json"


def _cases() -> list[Mapping[str, Any]]:
    if not FILE.is_file():
        pytest.skip("published measurements are not at hand")
    found: list[Mapping[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("technique", "model", "within"),
    [
        ("LORA", "Llama-3.2-3B", 0.025),
        ("IA3", "Llama-3.2-3B", 0.025),
        ("LoRA", "Llama 2 13B", 0.02),
    ],
)
def test_published_peaks_are_met(technique: str, model: str, within: float) -> None:
    case = next(
        c for c in _cases() if c["technique"] == technique and str(c["model"]).endswith(model)
    )
    prediction = predict(case)
    assert prediction is not None and prediction.known
    outcome = Outcome(case, prediction)
    assert abs(outcome.error) <= within
    assert not outcome.over
    assert summary([outcome])["upper_bound_under"] == 0


def test_unknown_settings_widen_the_interval() -> None:
    case = {
        "source": "somebody", "model": "Llama 3.2 1B", "params": 1.24e9, "technique": "LoRA",
        "batch": 1, "seq": None, "checkpointing": None, "peak_gib": 6.0, "note": "",
    }  # fmt: skip
    prediction = predict(case)
    assert prediction is not None and not prediction.known
    assert prediction.high > 3 * prediction.low


def test_pictures_are_left_alone() -> None:
    assert predict({"note": "diffusion model", "technique": "LORA"}) is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("Llama 2 7B", 6_738_415_616),
        ("Llama 2 13B", 13_015_864_320),
        ("Llama 3.1 8B", 8_030_261_248),
        ("Llama 3.1 70B", 70_553_706_496),
        ("Llama 3.1 405B", 405_853_388_800),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("phi-1.5", 1_418_270_720),
        ("StableLM Alpha 3B", 3_637_321_728),
    ],
)
def test_public_models_have_their_parameters(name: str, parameters: int) -> None:
    config = config_of(name)
    assert config is not None
    assert Shape.of(config).parameters == pytest.approx(parameters, rel=2e-4)
