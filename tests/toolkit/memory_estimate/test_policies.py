"""Estimates of pairs and policies: rows that are computed together, models beside the policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tables import build

from tunesmith.estimates import Assumptions, EstimateRequest
from tunesmith.records import Message, Preference, Record, UnpairedPreference
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_torch.memory_estimate.policies import (
    Stage,
    build_pair_grouping,
    build_policy_grouping,
    estimate_preferences,
)
from tunesmith_torch.memory_estimate.techniques import estimate_supervised
from tunesmith_torch.memory_estimate.workload import Grouping
from tunesmith_torch.options.policy import PolicyOptions

CONFIG = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}
REQUEST = EstimateRequest(
    config=CONFIG, tokenizer=None, train=(), test=(), assumed=Assumptions(), device="cuda"
)


@pytest.mark.parametrize(
    ("changes", "device", "shares_prompt"),
    [
        ({}, "cpu", True),
        ({}, "cuda", False),
        ({"packing": False}, "cpu", False),
        ({"share_prompts": False}, "cpu", False),
    ],
)
def test_both_completions_of_a_pair_are_computed(
    changes: dict[str, Any], device: str, shares_prompt: bool
) -> None:
    options = build(PreferenceOptions, **changes)
    expected = Grouping(both_completions=True, shares_prompt=shares_prompt)
    assert build_pair_grouping(options, device) == expected
    reward = build_pair_grouping(options, device, scores_last_token=True)
    assert reward == Grouping(
        both_completions=True, shares_prompt=shares_prompt, scores_last_token=True
    )


@pytest.mark.parametrize(
    ("packing", "device", "shares_prompt"),
    [(True, "cpu", True), (True, "cuda", False), (False, "cpu", False)],
)
def test_a_policy_samples_its_completions(packing: bool, device: str, shares_prompt: bool) -> None:
    options = build(
        PolicyOptions,
        packing=packing,
        generation__num_generations=5,
        generation__max_new_tokens=40,
    )
    expected = Grouping(sampled_completions=(5, 40), shares_prompt=shares_prompt)
    assert build_policy_grouping(options, device) == expected


PAIR, LABELLED = (
    (Preference(source="f:1", prompt=(Message("user", "q"),), chosen="a a", rejected="b b"),) * 8,
    (UnpairedPreference(source="f:1", prompt=(Message("user", "q"),), completion="a", label=True),)
    * 8,
)


@pytest.mark.parametrize(
    ("changes", "train", "passes"),
    [
        ({}, (), 1),
        ({"epochs": 4}, (), 1 / 4),
        ({"max_steps": 2, "batch_size": 50}, (), 10),  # a tenth of an epoch
        ({"loss__type": "simpo"}, (), 0),
        ({"loss__type": "kto"}, PAIR, 1 + 1 / 2 + 1 / 2),
        ({"loss__type": "kto"}, LABELLED, 1 + 1 + 1),
        ({"loss__type": "kto", "epochs": 4}, LABELLED, (1 + 1) / 4 + 1),
        ({"loss__type": "kto"}, PAIR + LABELLED, 1 + 2 / 3 + 2 / 3),
    ],
    ids=str,
)
def test_the_reference_and_the_kl_cost_forward_passes(
    changes: dict[str, Any], train: tuple[Record, ...], passes: float
) -> None:
    """Training counts as three; the reference scores the rows once, the policy in each epoch."""
    options = build(PreferenceOptions, **changes)
    request = replace(REQUEST, train=train, assumed=None) if train else REQUEST
    estimated = next(estimate_preferences(options, options.loss, request))
    plain = next(estimate_supervised(options, request, build_pair_grouping(options, "cuda")))
    assert estimated.flops == pytest.approx(plain.flops * (3 + passes) / 3)
    assert estimated.memory == plain.memory


@pytest.mark.parametrize(
    ("changes", "models"),
    [
        ({}, {"reward model"}),
        ({"adapt": "full"}, {"reward model", "reference"}),
        ({"adapt": "full", "loss__kl_coef": 0.0, "monitor__max_kl": 0.0}, {"reward model"}),
    ],
    ids=["lora", "full", "full, no KL"],
)
def test_models_besides_the_policy(changes: dict[str, Any], models: set[str]) -> None:
    options = build(PolicyOptions, **changes)
    stage = Stage.of_policy("policy", options, REQUEST, reward_model_bytes=7)
    assert set(stage.resident_models) == models
    assert stage.resident_models["reward model"] == 7
    alone = Stage.of_policy("policy", options, REQUEST)
    assert set(alone.resident_models) == models - {"reward model"}
