"""``parallel = "auto"``: copies where they fit, parts where only those do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tables import build

from tunesmith.estimates import Assumptions, EstimateRequest
from tunesmith.options import from_table
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.rlhf import estimate as rlhf
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.memory_estimate.parallel_choice import build_estimate_setting, choose_parallel
from tunesmith_torch.memory_estimate.workload import SINGLE_COMPLETION
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.training.auto_batch import choose_batch

GIB = 1 << 30
REQUEST = EstimateRequest(
    config={
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 32000, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    },
    tokenizer=None, train=(), test=(), assumed=Assumptions(sequence=512, rows=64),
    device="cuda", processes=4,
)  # fmt: skip
"""A model of 1.04 billion weights on four GPUs: 18 bytes a weight in full training."""
FULL = build(FullOptions, parallel="auto", micro_batch_tokens=1024)


def choose(gib: float | None, options: TrainingOptions = FULL, processes: int = 4) -> Any:
    memory = None if gib is None else round(gib * GIB)
    return choose_parallel(options, replace(REQUEST, process_memory=memory, processes=processes))


def test_copies_where_they_fit_and_parts_where_only_those_do() -> None:
    assert [choose(gib).parallel for gib in (80, 32, 16, 12)] == ["data", "data"] + ["sharded"] * 2
    choices = [choose(gib).parallel for gib in range(4, 80, 2)]
    assert choices == sorted(choices, reverse=True)  # never parts with more memory


def test_the_reason_has_the_numbers_of_both_ways_and_the_memory() -> None:
    reason = str(choose(16))
    assert reason.startswith('parallel = "auto" is "sharded": each of 4 processes needs ')
    assert "with a copy of the model" in reason and "with a shard" in reason
    assert reason.endswith("16.0 GiB are available, 10 % of them kept free")
    assert str(choose(2)).endswith("neither fits")
    assert "the device's memory is unknown" in str(choose(None))


@pytest.mark.parametrize(
    ("changes", "processes", "why"),
    [
        ({}, 1, "only one process trains"),
        ({"optimizer__name": "adamw-8bit"}, 4, "cannot be sharded"),
    ],
)
def test_some_trainings_have_no_choice(changes: Any, processes: int, why: str) -> None:
    options = build(FullOptions, parallel="auto", **changes)
    choice = choose(1, options, processes)
    assert choice.parallel == "data" and why in choice.reason


def test_sharding_that_saves_nothing_is_not_chosen() -> None:
    keys = {"micro_batch_tokens": 512, "gradient_checkpointing": True}
    choice = choose(2, build(LoraOptions, parallel="auto", **keys))
    assert choice.parallel == "data" and "saves nothing at the peak" in choice.reason


def test_other_options_that_are_auto_are_taken_to_adapt() -> None:
    rigid, adapting = (
        build(FullOptions, parallel="auto", micro_batch_tokens=tokens) for tokens in (32768, "auto")
    )
    request = replace(REQUEST, assumed=Assumptions(sequence=4096, rows=64))
    request = replace(request, process_memory=40 * GIB)
    assert choose_parallel(rigid, request).parallel == "sharded"
    assert choose_parallel(adapting, request).parallel == "data"


@pytest.mark.parametrize(("gib", "way"), [(80, "data"), (16, "sharded")])
def test_an_estimate_is_that_of_the_choice_and_names_it(gib: int, way: str) -> None:
    request = replace(REQUEST, process_memory=gib * GIB)
    found = next(techniques.estimate_supervised(FULL, request))
    chosen = next(
        techniques.estimate_supervised(FULL.model_copy(update={"parallel": way}), request)
    )
    assert found.memory == chosen.memory
    (note,) = set(found.notes) - set(chosen.notes)
    assert note.startswith(f'parallel = "auto" is "{way}"')


def test_each_stage_of_rlhf_chooses_for_itself() -> None:
    table = {"supervised": {"parallel": "auto", "adapt": "full"}, "policy": {"parallel": "sharded"}}
    options = from_table(RlhfOptions, table)
    found = next(rlhf.estimate(options, replace(REQUEST, process_memory=16 * GIB)))
    assert {"supervised, gather", "policy, gather"} < set(found.memory)
    assert "reward, gather" not in found.memory
    assert found.memory["rollout"].components["whole weights"] > 0


def test_the_estimate_recomputes_activations_exactly_where_training_would() -> None:
    """Training chooses from the memory that is free, the plan from the memory of the device."""
    options = build(FullOptions, micro_batch_tokens=8192, gradient_checkpointing="auto")
    found = {}
    for gib in (None, 16, 24, 28, 32, 80):
        memory = None if gib is None else gib * GIB
        request = replace(REQUEST, process_memory=memory, processes=1)
        setting = build_estimate_setting(options, request)
        chosen = choose_batch(options, request, memory, SINGLE_COMPLETION)
        found[gib] = setting.options.gradient_checkpointing
        assert found[gib] is bool(chosen["gradient_checkpointing"])
    assert found[None] and found[16] and not found[80]
