"""The planner's tracer against a few published measurements; ``memory_cases`` has all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks.memory_cases import Outcome, check_width, predict_case, summarize
from tests.benchmarks.memory_loops import Prediction, predict
from tests.benchmarks.public_models import config_of

from tunesmith_torch.memory_estimate.model_shape import ModelShape
from tunesmith_torch.testing import plain_loop

FILE = Path(__file__).parents[4] / "shared" / "data" / "memory_cases.json"


def _cases() -> list[Mapping[str, Any]]:
    if not FILE.is_file():
        pytest.skip("published measurements are not at hand")
    cases: list[Mapping[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return cases


@pytest.mark.parametrize(
    ("technique", "model", "within"),
    [
        ("LORA", "Llama-3.2-3B", 0.025),
        ("IA3", "Llama-3.2-3B", 0.025),
        ("LoRA", "Llama 2 13B", 0.02),
    ],
)
def test_published_peaks_are_predicted(technique: str, model: str, within: float) -> None:
    case = next(
        c for c in _cases() if c["technique"] == technique and str(c["model"]).endswith(model)
    )
    prediction = predict(case)
    assert prediction.is_known
    outcome = Outcome(case, prediction)
    assert abs(outcome.error) <= within
    assert not outcome.is_above
    assert summarize([outcome])["upper_bound_under"] == 0


SMALL = {
    "source": "unknown", "model": "Llama 3.2 1B", "params": 1.24e9, "technique": "LoRA",
    "dtype": "bfloat16", "optimizer": "AdamW", "batch": 1, "seq": 64, "checkpointing": True,
    "peak_gib": 3.0, "note": "", "rank": 8,
}  # fmt: skip


@pytest.mark.long
def test_settings_that_are_not_stated_widen_the_interval() -> None:
    stated = predict(SMALL)
    assert stated.is_known and stated.high < 1.4 * stated.low
    for change in (
        {"seq": None},
        {"checkpointing": None},
        {"optimizer": "8-bit paged"},
        {"dtype": "bf16-mixed"},
        {"gpu": "2 x A100"},
        {"model": "Unknown 1B"},
    ):
        changed = predict({**SMALL, **change})
        assert not changed.is_known, change
        assert changed.low <= stated.low and changed.high >= stated.high, change
        saves = "optimizer" in change
        assert (changed.high > stated.high) is not saves, change


def test_a_method_that_cannot_be_traced_may_materialize_its_update() -> None:
    case = {
        **SMALL, "source": "huggingface/peft method_comparison", "technique": "NOVEL",
        "trainable": 1e6, "peft_config": {"peft_type": "NOVEL", "target_modules": "all-linear"},
    }  # fmt: skip
    few = {**case, "peft_config": {"peft_type": "NOVEL", "target_modules": ["k_proj"]}}
    wide, narrow = predict(case), predict(few)
    assert "taken instead: KeyError" in wide.basis
    weights = 2 * 1.24e9
    assert wide.high - narrow.high > weights


def test_ranks_of_single_modules_count() -> None:
    """PEFT's comparison publishes 194,535,936 trained weights for OSF in the 28 layers."""
    ranks = dict.fromkeys(("q_proj", "o_proj", "gate_proj", "down_proj", "up_proj"), 2944)
    adapter = {
        "peft_type": "OSF", "rank_pattern": {**ranks, "k_proj": 896, "v_proj": 896},
        "target_modules": [*ranks, "k_proj", "v_proj"],
    }  # fmt: skip
    config = config_of("meta-llama/Llama-3.2-3B")
    assert config is not None
    loop = plain_loop.LoopConfig(batch=1, sequence=32, adapter=adapter)
    assert plain_loop.trace_layers(config, loop, 1).trainable_parameters == 194_535_936 // 28


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"note": "diffusion model"}, "not a language model"),
        ({"note": "weights only"}, "not about training"),
        ({"batch": None}, "no batch"),
        ({"peak_gib": "a lot"}, "no peak_gib"),
        ({"model": None, "params": None}, "no params"),
        ({"technique": "magic"}, "neither known here"),
        ({"seq": "long"}, "ValueError"),
    ],
)
def test_a_case_that_cannot_be_predicted_has_a_reason(change: dict[str, Any], why: str) -> None:
    outcome = predict_case({**SMALL, **change})
    assert outcome.prediction is None and why in outcome.why
    assert summarize([outcome])["unclear"] == 1


def test_unknown_fields_are_ignored() -> None:
    bare = {"peak_gib": 3.0, "batch": 1, "model": "Llama 3.2 1B", "technique": "LoRA", "new": [1]}
    outcome = predict_case(bare)
    assert outcome.prediction is not None and not outcome.is_known
    assert predict_case({}).why == "no peak_gib"


def test_a_memory_size_that_was_enough_is_not_a_measurement() -> None:
    outcome = Outcome(
        {"peak_gib": 48.0, "note": "upper bound (<48 GB)"},
        Prediction(30, 2.0**35, 2.0**35, True, ""),
    )
    assert outcome.is_within and not outcome.is_above and not outcome.is_known


def test_the_interval_width_is_checked_on_other_cases() -> None:
    def outcome(source: str, error: float) -> Outcome:
        case = {"source": source, "model": "m", "technique": source, "peak_gib": 1.0}
        size = 2.0**30 * (1 + error)
        return Outcome(case, Prediction(size * 0.8, size, size * 1.2, True, ""))

    lines = list(check_width([outcome("one", -0.1), outcome("two", 0.05)]))
    assert any("source one" in line and "TOO NARROW" in line for line in lines)
    assert any("source two" in line and "holds" in line for line in lines)


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
    assert ModelShape.from_config(config).parameters == pytest.approx(parameters, rel=2e-4)
