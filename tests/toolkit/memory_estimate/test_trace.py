"""The traced step: what it allocates is what a real one does, and arithmetic agrees with it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.contracts import Assumed, Estimate, EstimateRequest
from tunesmith.options import from_table
from tunesmith.records import Completion
from tunesmith_plugins.techniques.rlhf.offer import RLHF
from tunesmith_torch.kernels import block_attention, rms_norm
from tunesmith_torch.losses.selected_positions import base_of
from tunesmith_torch.memory_estimate import (
    analytic,
    constants,
    gpu_substitutes,
    meta_model,
    techniques,
    trace,
    traced,
)
from tunesmith_torch.memory_estimate.allocation_recorder import Recorder
from tunesmith_torch.memory_estimate.allocator_replay import Cuda, replay
from tunesmith_torch.memory_estimate.model_shape import Shape
from tunesmith_torch.memory_estimate.setting import Method, Setting
from tunesmith_torch.memory_estimate.timeline import Timeline
from tunesmith_torch.memory_estimate.workload import ALONE, Grouping
from tunesmith_torch.models.adapters import Adapted, adapt_all, adapt_lora
from tunesmith_torch.models.loading import Base, recompute_activations
from tunesmith_torch.options.generation_limits import WORTH_FOLDING
from tunesmith_torch.options.rlhf import RlhfOptions
from tunesmith_torch.options.training import FitOptions, LoraOptions, QloraOptions
from tunesmith_torch.prefix.completion_groups import answer_hidden
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.testing import plain_loop

SMALL = {
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
OPTIONS: dict[str, FitOptions] = {
    "full": FitOptions(precision="bf16"),
    "lora": LoraOptions(precision="bf16"),
    "qlora": QloraOptions(precision="bf16"),
}


def _setting(
    method: Method, *, device: Any = "cpu", grouping: Grouping = ALONE, **changes: Any
) -> Setting:
    assumed = Assumed(sequence=96, micro_batch=3, rows=3)
    options = OPTIONS[method].model_copy(update=changes)
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=(), heldout=(), assumed=assumed, device=device
    )
    return Setting.of(method, options, request, grouping)


def _real(setting: Setting) -> Adapted:
    """The same model with numbers."""
    model = AutoModelForCausalLM.from_config(
        meta_model.blank_config(setting.config),
        dtype=torch.bfloat16,
        attn_implementation=gpu_substitutes.register(gpu=False, packed=True),
    )
    rms_norm.use(model)
    base = Base(model, cast(Any, None), model.config, Path())
    precision = Precision(torch.bfloat16, "")
    if isinstance(setting.options, LoraOptions):
        adapted = adapt_lora(base, precision, setting.options, 0)
    else:
        adapted = adapt_all(base, precision)
    if setting.options.gradient_checkpointing:
        recompute_activations(model)
    adapted.model.train()
    return adapted


GROUPINGS = {
    "rows": ALONE,
    "pairs": Grouping(both=True, shared=True),
    "judged pairs": Grouping(both=True, shared=True, ends=True),
    "draws": Grouping(drawn=(4, 20), shared=True),
    "draws, prompts not shared": Grouping(drawn=(4, 20)),
}


@pytest.mark.parametrize(
    ("method", "gradient_checkpointing", "kind"),
    [
        *((method, again, "rows") for method in ("full", "lora") for again in (False, True)),
        *(("lora", False, kind) for kind in list(GROUPINGS)[1:]),
        ("lora", False, "rows with an opening"),
    ],
)
def test_a_step_with_numbers_allocates_the_same(
    method: Method, gradient_checkpointing: bool, kind: str
) -> None:
    setting = _setting(
        method, gradient_checkpointing=gradient_checkpointing, grouping=GROUPINGS.get(kind, ALONE)
    )
    if kind not in GROUPINGS:
        setting = replace(setting, load=replace(setting.load, opening=30))
        assert trace._micro_batch(setting).batch.ids_BT.numel() == 3 * 96 - 2 * 30
    adapted, recorder = _real(setting), Recorder(gpu_substitutes.CPU)
    block_attention.forget()
    with recorder.recording():
        trace.own(recorder, adapted.model, base_of(adapted.model), adapters=method == "lora")
        trace.steps(2, setting, adapted, trace._micro_batch(setting), recorder)
    real = recorder.timeline.labelled(recorder.labels)
    traced = trace.trace_layers(setting, SMALL["num_hidden_layers"]).timeline  # type: ignore[arg-type]
    assert _most(traced) == pytest.approx(_most(real), rel=1e-2)  # alike but for a few scalars
    assert traced.peak() == pytest.approx(real.peak(), rel=2e-3)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("method", "device", "gradient_checkpointing"),
    [
        ("full", "cpu", False),
        ("lora", "cpu", True),
        ("lora", "cuda", False),
        ("qlora", "cuda", True),
    ],
)
def test_the_second_step_is_the_first_without_what_is_made_for_good(
    monkeypatch: pytest.MonkeyPatch,
    method: Method,
    device: Any,
    gradient_checkpointing: bool,
    several: bool,
) -> None:
    setting = _setting(method, device=device, gradient_checkpointing=gradient_checkpointing)
    setting = replace(setting, load=replace(setting.load, several=several))
    told = trace.trace_layers(setting, 3).timeline
    run = trace.steps
    monkeypatch.setattr(trace, "steps", lambda count, *others: run(2, *others))
    monkeypatch.setattr(Timeline, "again", lambda self, before, after: self)
    both = trace.trace_layers(setting, 3).timeline
    assert _most(told) == pytest.approx(_most(both), rel=2e-3)


def _most(found: Timeline) -> dict[str, int]:
    """The most that each phase holds."""
    peaks: dict[str, int] = {}
    for place, held in found.curve():
        peaks[place.phase] = max(peaks.get(place.phase, 0), held)
    return peaks


@pytest.mark.parametrize(
    ("method", "device"), [("full", "cpu"), ("lora", "cuda"), ("qlora", "cuda")]
)
def test_five_layers_say_what_six_do(method: Method, device: str) -> None:
    setting = _setting(method, device=device)
    stretched, whole = trace.trace(setting), trace.trace_layers(setting, 6)
    assert stretched.timeline.peak() == pytest.approx(whole.timeline.peak(), rel=2e-3)
    assert stretched.trainable == whole.trainable == setting.trainable
    held = [replay((e for _, e in t.timeline), Cuda())[1] for t in (stretched, whole)]
    assert held[0] == pytest.approx(held[1], rel=0.02)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_arithmetic_agrees_with_the_trace(method: Method) -> None:
    for changes in ({"gradient_checkpointing": True}, {"fused_kernels": False}):
        setting = _setting(method, device="cuda", **changes)
        traced = trace.trace_layers(setting, 6).timeline.peak()
        parts = analytic.training(setting)
        counted = sum(parts.static.values()) + sum(parts.dynamic.values())
        # Blocks of 512 bytes weigh more in a model this small.
        assert counted == pytest.approx(traced, rel=0.2), changes


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "phi"])
def test_parameters_are_counted_as_the_model_has_them(family: str) -> None:
    config = {**SMALL, "model_type": family, "head_dim": 32, "tie_word_embeddings": False}
    config |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = meta_model.blank_model(meta_model.blank_config(config), torch.bfloat16, "sdpa")
    assert Shape.of(config).parameters == pytest.approx(model.num_parameters(), rel=5e-3)


def test_4_bits_take_what_they_say() -> None:
    setting = _setting("qlora")
    parts = trace.trace_layers(setting, 6).timeline.at_peak()
    # In a model this small, tables of 16 and 256 numbers for each layer weigh something.
    assert setting.base_bytes < parts["weights"] < 1.3 * setting.base_bytes
    assert parts["weights"] < 0.75 * _setting("lora").base_bytes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_8_bits_are_traced_and_take_what_they_say(device: str) -> None:
    setting = _setting("qlora", device=device, bits=8)
    found = trace.trace(setting)
    weights = found.timeline.at_peak()["weights"]
    assert setting.base_bytes < weights < 1.1 * setting.base_bytes
    assert found.timeline.peak() == pytest.approx(
        trace.trace_layers(setting, 6).timeline.peak(), rel=2e-3
    )
    *_, last = techniques.qlora(
        QloraOptions(bits=8),
        EstimateRequest(
            config=SMALL, tokenizer=None, train=(), heldout=(), assumed=Assumed(), device="cuda"
        ),
    )
    assert last.method == "traced", last.notes


def test_8_bits_keep_the_inputs_of_their_products_although_layers_are_computed_again() -> None:
    # bitsandbytes hangs them on the graph, where recomputation does not see them.
    eight, four = (
        trace.trace_layers(_setting("qlora", device="cuda", bits=bits), 6).timeline.at_peak()
        for bits in (8, 4)
    )
    kept = [sum(size for name, size in x.items() if name != "weights") for x in (eight, four)]
    inputs = 6 * 3 * 96 * (2 * 128 + 256) * 2  # layers, tokens, before q/k/v, gate/up and down
    assert kept[0] - kept[1] > inputs / 2


def test_8_bit_means_are_a_quarter() -> None:
    eight, wide = (
        trace.trace_layers(_setting("full", optimizer=kind), 6).timeline.at_peak()["optimizer"]
        for kind in ("adamw-8bit", "adamw")
    )
    assert eight == pytest.approx(wide / 4, rel=0.05)


def test_a_cpu_widens_8_bit_means_for_a_moment() -> None:
    kinds = ("adamw", "adamw-8bit")
    wide, eight = (
        traced.estimate(_setting("full", optimizer=kind)).memory["train"] for kind in kinds
    )
    asked = [memory.expected - memory.components["fragmentation"] for memory in (wide, eight)]
    means = Shape.of(SMALL).parameters * (8 - 2 * (1 + 4 / 256))
    largest = 5 * 4 * 512 * 128
    assert asked[0] - asked[1] == pytest.approx(means - largest, abs=0.1 * largest)
    few = traced.estimate(_setting("lora", optimizer="adamw-8bit")).memory["train"]
    assert few.components["temporaries"] < largest


def test_rows_of_many_lengths_leave_gaps_and_kernels_on_a_cpu() -> None:
    even = {device: _setting("lora", device=device) for device in ("cpu", "cuda")}
    found = {}
    for device, setting in even.items():
        ragged = replace(setting, load=replace(setting.load, lengths=(96, 40, 96)))
        found[device] = [traced.estimate(each).memory["train"] for each in (setting, ragged)]
    alike, other = found["cpu"]
    assert other.low == alike.low
    assert other.expected - alike.expected > constants.OTHER_KERNELS
    assert other.high - alike.high > other.expected - alike.expected
    assert sum(other.components.values()) == pytest.approx(other.expected, rel=1e-6)
    assert found["cuda"][0] == found["cuda"][1]


def test_the_plain_loop_keeps_all_logits() -> None:
    loop = plain_loop.Loop(batch=2, sequence=64, adapter={"peft_type": "LORA", "r": 4})
    cached = plain_loop.Loop(
        batch=2, sequence=64, adapter={"peft_type": "LORA", "r": 4}, use_cache=True
    )
    plain, with_cache = (plain_loop.trace(SMALL, x).timeline.peak() for x in (loop, cached))
    assert plain < with_cache
    assert plain > 2 * 64 * 512 * (2 + 4 + 4)  # bf16, fp32 and its softmax


def test_estimates_come_fast_first_and_traced_second() -> None:
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=(), heldout=(), assumed=Assumed(), device="cuda"
    )
    first, second = techniques.lora(LoraOptions(), request)
    assert (first.method, second.method) == ("analytic", "traced")
    assert list(first.memory) == list(second.memory) == ["load", "train", "evaluate", "merge"]
    for found in (first, second):
        for memory in found.memory.values():
            assert memory.low <= memory.expected <= memory.high
            assert sum(memory.components.values()) == pytest.approx(memory.expected, rel=0.01)


def _stages(table: dict[str, Any]) -> Iterator[Estimate]:
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=(), heldout=(), assumed=Assumed(), device="cuda"
    )
    yield from RLHF.estimate(from_table(RlhfOptions, table), request)  # type: ignore[misc]


def test_every_stage_has_a_phase_in_both_estimates() -> None:
    found = list(_stages({}))
    assert [estimate.method for estimate in found] == ["analytic", "traced"]
    phases = ["load", "supervised", "reward", "rollout", "policy", "evaluate"]
    assert all(list(estimate.memory) == phases for estimate in found)
    skipping = {"supervised": {"skip": True}, "reward": {"skip": True, "from": "runs/1"}}
    fewer = next(_stages(skipping))
    assert list(fewer.memory) == ["load", "rollout", "policy", "evaluate"]
    assert fewer.steps < found[0].steps


def test_what_waits_beside_the_policy_is_counted_in_both_estimates() -> None:
    copy = Shape.of(SMALL).parameters * 2
    for found in _stages({"policy": {"adapt": "full"}, "reward": {"adapt": "full"}}):
        for phase in ("rollout", "policy"):
            parts = found.memory[phase].components
            assert parts["reward model"] == parts["reference"] == copy
            assert sum(parts.values()) == pytest.approx(found.memory[phase].expected, abs=9)
        assert "reward model" not in found.memory["supervised"].components


def test_adapters_over_one_base_wait_without_it() -> None:
    copy = Shape.of(SMALL).parameters * 2
    parts = next(_stages({})).memory["policy"].components
    assert 0 < parts["reward model"] < copy / 2
    assert "reference" not in parts
    other = next(_stages({"reward": {"adapt": "qlora"}})).memory["policy"].components
    assert other["reward model"] > copy / 4


def test_a_policy_of_many_long_answers_takes_more() -> None:
    few, many = (
        next(_stages({"policy": {"num_generations": n, "max_new_tokens": 64, "micro_batch_tokens": 256}}))
        for n in (2, 16)
    )
    for phase in ("rollout", "policy"):
        assert many.memory[phase].expected > few.memory[phase].expected, phase
    assert many.memory["reward"] == few.memory["reward"]
    assert many.flops > few.flops


def test_economies_of_stages_say_where_they_stand() -> None:
    options = from_table(RlhfOptions, {"supervised": {"skip": True}})
    found = list(RLHF.economies(options))  # type: ignore[misc]
    assert found
    for economy in found:
        table: dict[str, Any] = tomllib.loads("\n".join(economy.changes))
        assert "supervised" not in table["technique"]
        for stage, changes in table["technique"].items():
            changed, before = getattr(economy.config, stage), getattr(options, stage)
            for name, value in changes.items():
                assert getattr(changed, name) == value != getattr(before, name)
        assert economy.config.supervised == options.supervised


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_models_that_evaluators_hold_beside_the_measured_one_are_counted(method: Method) -> None:
    rows = [Completion(source="", prompt="a " * 90, completion="b " * 20)] * 8
    alone = EstimateRequest(
        config=SMALL, tokenizer=None, train=rows, heldout=rows, assumed=None, device="cpu"
    )
    one, three = (
        analytic.evaluating(Setting.of(method, OPTIONS[method], replace(alone, models=n)))
        for n in (1, 3)
    )
    assert "other models" not in one.static
    assert three.static["other models"] == 2 * one.static["weights"]


def test_folded_weights_are_there_while_a_cpu_answers_in_fp32() -> None:
    rows = [Completion(source="", prompt="a " * 90, completion="b " * 20)] * 8
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=rows, heldout=rows, assumed=None, device="cpu"
    )
    linear = 6 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256) * 4
    for precision, device, found in (
        ("fp32", "cpu", linear),
        ("bf16", "cpu", 0),
        ("fp32", "cuda", 0),
    ):
        options = LoraOptions(precision=precision)  # type: ignore[arg-type]
        setting = Setting.of("lora", options, replace(request, device=device))  # type: ignore[arg-type]
        assert analytic.evaluating(setting).static.get("folded", 0) == found, (precision, device)
        assert analytic.folded(setting, WORTH_FOLDING - 1) == {}
    full = Setting.of("full", FitOptions(precision="fp32"), request)
    assert "folded" not in analytic.evaluating(full).static


def test_answers_that_come_to_their_limit_are_no_more_than_possible() -> None:
    rows = [Completion(source="", prompt="a " * 90, completion="b " * 20)] * 8
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=rows, heldout=rows, assumed=None, device="cpu"
    )
    setting = Setting.of("lora", OPTIONS["lora"], request)
    parts = analytic.evaluating(setting)
    slot = 2 * 2 * 32 * 6 * 2  # keys and values, heads, width, layers, bf16
    longest = sum(setting.load.heldout[0].answers) + setting.load.heldout[0].prompt
    assert parts.unsure == slot * 8 * analytic.ANSWER * 7 // 4
    assert parts.dynamic["cache"] == slot * 8 * longest * 3 // 2
    memory = parts.memory((1.0, 1.0))
    plain = parts._replace(unsure=0).memory((1.0, 1.0))
    assert memory.high - plain.high == parts.unsure and memory.expected == plain.expected


def test_short_rows_side_by_side_are_traced_too() -> None:
    short = Assumed(sequence=12, micro_batch=20, rows=20)
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=(), heldout=(), assumed=short, device="cpu"
    )
    *_, last = techniques.lora(LoraOptions(), request)
    assert last.method == "traced", last.notes


def test_a_model_that_nobody_knows_is_estimated_by_arithmetic() -> None:
    request = EstimateRequest(
        config={**SMALL, "model_type": "nobody"},
        tokenizer=None, train=(), heldout=(), assumed=Assumed(), device="cuda",
    )  # fmt: skip
    first, second = techniques.full(FitOptions(), request)
    assert second.method == "analytic"
    assert "could not be traced" in second.notes[-1]
    assert first.memory == second.memory


def test_random_states_and_modes_are_left_as_they_were() -> None:
    before = torch.random.get_rng_state()
    trace.trace(_setting("lora", device="cuda"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.is_autocast_enabled("cuda")
    assert torch.ones(1).is_cpu


def test_a_real_step_after_a_trace_meets_no_mask_without_numbers() -> None:
    setting = _setting("full")
    trace.trace_layers(setting, 6)
    adapted = _real(setting)
    hidden_ND = answer_hidden(adapted.model, trace._micro_batch(setting))
    assert bool(hidden_ND.isfinite().all())
