"""The traced step allocates what a real step does, and the arithmetic estimate agrees with it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tables import build, tables
from transformers import AutoModelForCausalLM

from tunesmith.estimates import Assumptions, Estimate, EstimateRequest
from tunesmith.options import from_table
from tunesmith.records import Completion
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_plugins.techniques.rlhf.offer import RLHF
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_torch.kernels import block_attention, rms_norm
from tunesmith_torch.losses.selected_positions import unwrap_peft
from tunesmith_torch.memory_estimate import (
    analytic,
    constants,
    gpu_substitutes,
    meta_model,
    techniques,
    trace,
    traced,
)
from tunesmith_torch.memory_estimate.allocation_recorder import AllocationRecorder
from tunesmith_torch.memory_estimate.allocator_replay import CudaAllocator, replay_allocations
from tunesmith_torch.memory_estimate.model_shape import ModelShape
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.timeline import TRACED_LAYERS, Timeline
from tunesmith_torch.memory_estimate.trace import StepTrace
from tunesmith_torch.memory_estimate.workload import SINGLE_COMPLETION, Grouping
from tunesmith_torch.models.adapters import AdaptedModel, adapt_full, adapt_lora
from tunesmith_torch.models.loading import LoadedBase, enable_gradient_checkpointing
from tunesmith_torch.options.adaptation import Method
from tunesmith_torch.options.generation_limits import MIN_TOKENS_TO_MERGE
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.prefix.completion_groups import completion_hidden
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.testing import plain_loop

SMALL = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}
"""Tracing takes time for each layer, so most tests have two."""
SMALL_LINEAR = 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256)
STRETCHED = {**SMALL, "num_hidden_layers": TRACED_LAYERS + 1}
OPTIONS: dict[str, type[TrainingOptions]] = {
    "full": FullOptions,
    "lora": LoraOptions,
    "qlora": QloraOptions,
}


def _options(method: Method, **changes: Any) -> TrainingOptions:
    return build(OPTIONS[method], **{"precision": "bf16", **changes})


def _setting(
    method: Method,
    *,
    device: Any = "cpu",
    grouping: Grouping = SINGLE_COMPLETION,
    config: dict[str, Any] = SMALL,
    **changes: Any,
) -> EstimateSetting:
    assumed = Assumptions(sequence=96, micro_batch=3, rows=3)
    options = _options(method, **changes)
    request = EstimateRequest(
        config=config, tokenizer=None, train=(), test=(), assumed=assumed, device=device
    )
    return EstimateSetting.from_request(options, request, grouping)


def _trace(setting: EstimateSetting) -> StepTrace:
    """Trace every layer of the model."""
    return trace.trace_layers(setting, setting.shape.layers)


def _real_model(setting: EstimateSetting) -> AdaptedModel:
    """Build the same model with real tensors."""
    model = AutoModelForCausalLM.from_config(
        meta_model.make_meta_config(setting.config),
        dtype=torch.bfloat16,
        attn_implementation=gpu_substitutes.register_attention(gpu=False, packed=True),
    )
    rms_norm.fuse_rms_norms(model)
    base = LoadedBase(model, cast(Any, None), model.config, Path())
    precision = Precision(torch.bfloat16, "")
    if setting.adapter is not None:
        adapted = adapt_lora(base, precision, setting.adapter, 0)
    else:
        adapted = adapt_full(base, precision)
    if setting.options.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    adapted.model.train()
    return adapted


GROUPINGS = {
    "rows": SINGLE_COMPLETION,
    "pairs": Grouping(both_completions=True, shares_prompt=True),
    "labeled answers": Grouping(shares_prompt=True),
    "pairs of a reward model": Grouping(
        both_completions=True, shares_prompt=True, scores_last_token=True
    ),
    "sampled": Grouping(sampled_completions=(4, 20), shares_prompt=True),
    "sampled, prompts not shared": Grouping(sampled_completions=(4, 20)),
}


@pytest.mark.parametrize(
    ("method", "gradient_checkpointing", "kind"),
    [
        ("full", True, "rows"),
        ("lora", False, "rows"),
        pytest.param("lora", False, "sampled", marks=pytest.mark.long),
        pytest.param("full", False, "rows", marks=pytest.mark.long),
        pytest.param("lora", True, "rows", marks=pytest.mark.long),
        *(
            pytest.param("lora", False, kind, marks=pytest.mark.long)
            for kind in (*GROUPINGS, "rows with a common prefix")
            if kind not in ("rows", "sampled")
        ),
    ],
)
def test_a_step_on_real_tensors_allocates_the_same(
    method: Method, gradient_checkpointing: bool, kind: str
) -> None:
    setting = _setting(
        method,
        config={**SMALL, "num_hidden_layers": 5},  # the more layers, the less scalars count
        gradient_checkpointing=gradient_checkpointing,
        grouping=GROUPINGS.get(kind, SINGLE_COMPLETION),
    )
    if kind not in GROUPINGS:
        setting = replace(setting, workload=replace(setting.workload, common_prefix_tokens=30))
        assert trace._largest_micro_batch(setting).batch.ids_BT.numel() == 3 * 96 - 2 * 30
    adapted, recorder = _real_model(setting), AllocationRecorder(gpu_substitutes.CPU_WORKSPACES)
    block_attention.clear_mask_cache()
    with recorder.recording():
        trace.record_model_tensors(
            recorder, adapted.model, unwrap_peft(adapted.model), adapters=method == "lora"
        )
        trace.run_steps(2, setting, adapted, trace._largest_micro_batch(setting), recorder)
    real = recorder.timeline.with_block_labels(recorder.labels)
    traced = _trace(setting).timeline
    assert _peaks_by_phase(traced) == pytest.approx(
        _peaks_by_phase(real), rel=1e-2
    )  # equal except for a few scalars
    assert traced.peak_bytes() == pytest.approx(real.peak_bytes(), rel=2e-3)


@pytest.mark.parametrize(
    "accumulates_gradients", [pytest.param(False, marks=pytest.mark.long), True]
)
@pytest.mark.parametrize(
    ("method", "device", "gradient_checkpointing"),
    [
        ("full", "cpu", False),
        pytest.param("lora", "cpu", True, marks=pytest.mark.long),
        pytest.param("lora", "cuda", False, marks=pytest.mark.long),
        ("qlora", "cuda", True),
    ],
)
def test_the_second_step_repeats_the_first_without_permanent_blocks(
    method: Method,
    device: Any,
    gradient_checkpointing: bool,
    accumulates_gradients: bool,
) -> None:
    setting = _setting(method, device=device, gradient_checkpointing=gradient_checkpointing)
    setting = replace(
        setting, workload=replace(setting.workload, accumulates_gradients=accumulates_gradients)
    )
    repeated = _trace(setting).timeline
    two_steps = trace.trace_layers(setting, setting.shape.layers, steps=2).timeline
    assert _peaks_by_phase(repeated) == pytest.approx(_peaks_by_phase(two_steps), rel=2e-3)


def _peaks_by_phase(timeline: Timeline) -> dict[str, int]:
    """Return the most bytes that are allocated in each phase."""
    peaks: dict[str, int] = {}
    for position, allocated in timeline.allocation_curve():
        peaks[position.phase] = max(peaks.get(position.phase, 0), allocated)
    return peaks


@pytest.mark.parametrize(
    ("method", "device"),
    [
        ("full", "cpu"),
        pytest.param("lora", "cuda", marks=pytest.mark.long),
        pytest.param("qlora", "cuda", marks=pytest.mark.long),
    ],
)
def test_a_trace_of_five_layers_stretches_to_six(method: Method, device: str) -> None:
    setting = _setting(method, device=device, config=STRETCHED)
    stretched, complete = trace.trace_step(setting), _trace(setting)
    assert stretched.timeline.peak_bytes() == pytest.approx(
        complete.timeline.peak_bytes(), rel=2e-3
    )
    assert (
        stretched.trainable_parameters
        == complete.trainable_parameters
        == setting.trainable_parameters
    )
    reserved = [
        replay_allocations((event for _, event in each.timeline), CudaAllocator())[1]
        for each in (stretched, complete)
    ]
    assert reserved[0] == pytest.approx(reserved[1], rel=0.02)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_arithmetic_agrees_with_the_trace(method: Method) -> None:
    for changes in ({"gradient_checkpointing": True}, {"fused_kernels": False}):
        setting = _setting(method, device="cuda", **changes)
        traced = _trace(setting).timeline.peak_bytes()
        parts = analytic.training_memory(setting)
        counted = sum(parts.static.values()) + sum(parts.dynamic.values())
        # Rounding to 512 bytes counts for more in a model this small.
        assert counted == pytest.approx(traced, rel=0.2), changes


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "phi"])
def test_the_shape_counts_the_parameters_of_the_model(family: str) -> None:
    config = {**SMALL, "model_type": family, "head_dim": 32, "tie_word_embeddings": False}
    config |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = meta_model.make_meta_model(meta_model.make_meta_config(config), torch.bfloat16, "sdpa")
    assert ModelShape.from_config(config).parameters == pytest.approx(
        model.num_parameters(), rel=5e-3
    )


@pytest.mark.parametrize(
    ("family", "experts"),
    [("mixtral", "num_local_experts"), ("qwen3_moe", "num_experts"), ("dots1", "n_routed_experts")],
)
def test_the_shape_counts_experts_by_the_name_of_the_family(family: str, experts: str) -> None:
    config = {**SMALL, "model_type": family, "head_dim": 32, "tie_word_embeddings": False}
    config |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, experts: 8}
    if family != "mixtral":
        config |= {"moe_intermediate_size": 64, "num_experts_per_tok": 2}
    if family == "dots1":
        config |= {"first_k_dense_replace": 0, "n_shared_experts": 0, "n_group": 1, "topk_group": 1}
    model = meta_model.make_meta_model(meta_model.make_meta_config(config), torch.bfloat16, "sdpa")
    assert ModelShape.from_config(config).parameters == pytest.approx(
        model.num_parameters(), rel=5e-3
    )


def test_experts_count_only_if_they_get_an_adapter() -> None:
    config = {**SMALL, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    shape = ModelShape.from_config(config)
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {linear.name for linear in shape.targeted_layers("all-linear")} == attention
    (down,) = shape.targeted_experts(["experts.down_proj"])
    assert (down.out_features, down.in_features) == (shape.hidden_size, shape.intermediate_size)
    assert down.experts == 4
    assert not [*ModelShape.from_config(SMALL).targeted_experts(["experts.down_proj"])]


def test_a_4_bit_base_takes_the_bytes_of_its_estimate() -> None:
    setting = _setting("qlora")
    parts = _trace(setting).timeline.peak_by_label()
    # In a model this small, the tables of 16 and 256 numbers of each layer count.
    assert setting.base_bytes < parts["weights"] < 1.3 * setting.base_bytes
    assert parts["weights"] < 0.75 * _setting("lora").base_bytes


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.long), "cuda"])
def test_an_8_bit_base_is_traced_and_takes_the_bytes_of_its_estimate(device: str) -> None:
    setting = _setting("qlora", device=device, config=STRETCHED, quantization__bits=8)
    step_trace = trace.trace_step(setting)
    weights = step_trace.timeline.peak_by_label()["weights"]
    assert setting.base_bytes < weights < 1.1 * setting.base_bytes
    assert step_trace.timeline.peak_bytes() == pytest.approx(
        _trace(setting).timeline.peak_bytes(), rel=2e-3
    )


def test_an_8_bit_base_has_a_traced_estimate() -> None:
    *_, last = techniques.estimate_supervised(
        build(QloraOptions, quantization__bits=8),
        EstimateRequest(
            config=SMALL, tokenizer=None, train=(), test=(), assumed=Assumptions(), device="cuda"
        ),
    )
    assert last.method == "traced", last.notes


def test_an_8_bit_base_keeps_the_inputs_of_its_products_despite_recomputation() -> None:
    # bitsandbytes stores them in the graph, where recomputation does not see them.
    eight, four = (
        _trace(
            _setting("qlora", device="cuda", gradient_checkpointing=True, quantization__bits=bits)
        ).timeline.peak_by_label()
        for bits in (8, 4)
    )
    kept = [sum(size for name, size in x.items() if name != "weights") for x in (eight, four)]
    inputs = 2 * 3 * 96 * (2 * 128 + 256) * 2  # layers, tokens, before q/k/v, gate/up and down
    assert kept[0] - kept[1] > inputs / 2


def test_8_bit_moments_take_a_quarter_of_fp32() -> None:
    eight, wide = (
        _trace(_setting("full", optimizer__name=kind)).timeline.peak_by_label()["optimizer"]
        for kind in ("adamw-8bit", "adamw")
    )
    assert eight == pytest.approx(wide / 4, rel=0.05)


def test_a_cpu_widens_8_bit_moments_temporarily() -> None:
    kinds = ("adamw", "adamw-8bit")
    wide, eight = (
        traced.estimate(_setting("full", optimizer__name=kind)).memory["train"] for kind in kinds
    )
    allocated = [memory.expected - memory.components["fragmentation"] for memory in (wide, eight)]
    moments = ModelShape.from_config(SMALL).parameters * (8 - 2 * (1 + 4 / 256))
    largest = 5 * 4 * 512 * 128
    assert allocated[0] - allocated[1] == pytest.approx(moments - largest, abs=0.1 * largest)
    few = traced.estimate(_setting("lora", optimizer__name="adamw-8bit")).memory["train"]
    assert few.components["temporaries"] < largest


def test_rows_of_many_lengths_leave_gaps_and_kernels_on_a_cpu() -> None:
    settings = {device: _setting("lora", device=device) for device in ("cpu", "cuda")}
    memory = {}
    for device, setting in settings.items():
        ragged = replace(setting, workload=replace(setting.workload, row_tokens=(96, 40, 96)))
        memory[device] = [traced.estimate(each).memory["train"] for each in (setting, ragged)]
    equal, ragged_rows = memory["cpu"]
    assert ragged_rows.low == equal.low
    assert ragged_rows.expected - equal.expected > constants.VARIED_SHAPE_KERNEL_BYTES
    assert ragged_rows.high - equal.high > ragged_rows.expected - equal.expected
    assert sum(ragged_rows.components.values()) == pytest.approx(ragged_rows.expected, rel=1e-6)
    assert memory["cuda"][0] == memory["cuda"][1]


def test_the_plain_loop_keeps_all_logits() -> None:
    loop = plain_loop.LoopConfig(batch=2, sequence=64, adapter={"peft_type": "LORA", "r": 4})
    cached = plain_loop.LoopConfig(
        batch=2, sequence=64, adapter={"peft_type": "LORA", "r": 4}, use_cache=True
    )
    plain, with_cache = (plain_loop.trace(SMALL, x).timeline.peak_bytes() for x in (loop, cached))
    assert plain < with_cache
    assert plain > 2 * 64 * 512 * (2 + 4 + 4)  # logits in bf16 and fp32, and their softmax


def test_the_first_estimate_is_analytic_and_the_second_traced() -> None:
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=(), test=(), assumed=Assumptions(), device="cuda"
    )
    first, second = techniques.estimate_supervised(LoraOptions(), request)
    assert (first.method, second.method) == ("analytic", "traced")
    assert list(first.memory) == list(second.memory) == ["load", "train", "evaluate"]
    for estimate in (first, second):
        for memory in estimate.memory.values():
            assert memory.low <= memory.expected <= memory.high
            assert sum(memory.components.values()) == pytest.approx(memory.expected, rel=0.01)


def _stages(table: dict[str, Any]) -> Iterator[Estimate]:
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=(), test=(), assumed=Assumptions(), device="cuda"
    )
    yield from RLHF.estimate(from_table(RlhfOptions, table), request)  # type: ignore[misc]


def test_every_stage_has_a_phase_in_both_estimates() -> None:
    estimates = list(_stages({}))
    assert [estimate.method for estimate in estimates] == ["analytic", "traced"]
    phases = ["load", "supervised", "reward", "rollout", "policy", "evaluate"]
    assert all(list(estimate.memory) == phases for estimate in estimates)
    skipping = {"supervised": {"skip": True}, "reward": {"skip": True, "from": "runs/1"}}
    fewer = next(_stages(skipping))
    assert list(fewer.memory) == ["load", "rollout", "policy", "evaluate"]
    assert fewer.steps < estimates[0].steps


def test_models_besides_the_policy_are_counted_in_both_estimates() -> None:
    copy = ModelShape.from_config(SMALL).parameters * 2
    for estimate in _stages({"policy": {"adapt": "full"}, "reward": {"adapt": "full"}}):
        for phase in ("rollout", "policy"):
            parts = estimate.memory[phase].components
            assert parts["reward model"] == parts["reference"] == copy
            assert sum(parts.values()) == pytest.approx(estimate.memory[phase].expected, abs=9)
        assert "reward model" not in estimate.memory["supervised"].components


def test_a_reward_model_on_the_same_base_takes_only_its_adapter() -> None:
    copy = ModelShape.from_config(SMALL).parameters * 2
    parts = next(_stages({})).memory["policy"].components
    assert 0 < parts["reward model"] < copy / 2
    assert "reference" not in parts
    other = next(_stages({"reward": {"adapt": "qlora"}})).memory["policy"].components
    assert other["reward model"] > copy / 4


def test_a_policy_of_many_long_answers_takes_more() -> None:
    few, many = (
        next(
            _stages(
                tables(
                    policy__generation__num_generations=n,
                    policy__generation__max_new_tokens=64,
                    policy__micro_batch_tokens=256,
                )
            )
        )
        for n in (2, 16)
    )
    for phase in ("rollout", "policy"):
        assert many.memory[phase].expected > few.memory[phase].expected, phase
    assert many.memory["reward"] == few.memory["reward"]
    assert many.flops > few.flops


def test_memory_savings_of_stages_name_their_table() -> None:
    options = from_table(RlhfOptions, {"supervised": {"skip": True}})
    savings = list(RLHF.memory_savings(options))  # type: ignore[misc]
    assert savings
    for saving in savings:
        table: dict[str, Any] = tomllib.loads("\n".join(saving.changes))
        assert "supervised" not in table["technique"]
        for stage, changes in table["technique"].items():
            changed, before = getattr(saving.config, stage), getattr(options, stage)
            adapter = changes.pop("adapter", {})
            for name, value in changes.items():
                assert getattr(changed, name) == value != getattr(before, name)
            for name, value in adapter.items():
                assert getattr(changed.adapter, name) == value != getattr(before.adapter, name)
        assert saving.config.supervised == options.supervised


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_models_that_evaluators_compare_with_are_counted(method: Method) -> None:
    rows = [Completion(source="", prompt="a " * 90, completion="b " * 20)] * 8
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=rows, test=rows, assumed=None, device="cpu"
    )
    one, three = (
        analytic.evaluation_memory(
            EstimateSetting.from_request(_options(method), replace(request, model_count=n))
        )
        for n in (1, 3)
    )
    assert "other models" not in one.static
    assert three.static["other models"] == 2 * one.static["weights"]


def test_merged_weights_are_counted_if_a_cpu_generates_in_fp32() -> None:
    rows = [Completion(source="", prompt="a " * 90, completion="b " * 20)] * 8
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=rows, test=rows, assumed=None, device="cpu"
    )
    linear = 4 * SMALL_LINEAR
    for precision, device, merged in (
        ("fp32", "cpu", linear),
        ("bf16", "cpu", 0),
        ("fp32", "cuda", 0),
    ):
        options = LoraOptions(precision=precision)  # type: ignore[arg-type]
        setting = EstimateSetting.from_request(options, replace(request, device=device))  # type: ignore[arg-type]
        assert analytic.evaluation_memory(setting).static.get("merged weights", 0) == merged, (
            precision,
            device,
        )
        assert analytic.merged_weights_memory(setting, MIN_TOKENS_TO_MERGE - 1) == {}
    full = EstimateSetting.from_request(FullOptions(precision="fp32"), request)
    assert "merged weights" not in analytic.evaluation_memory(full).static


@pytest.mark.parametrize(
    ("method", "precision", "device", "expected"),
    [
        ("lora", "fp32", "cpu", 4 * 512 * 128),  # the head; generation merges the other layers
        ("lora", "bf16", "cpu", 2 * (512 * 128 + SMALL_LINEAR)),
        ("full", "fp32", "cpu", 4 * (512 * 128 + SMALL_LINEAR)),
        ("full", "fp32", "cuda", 0),
    ],
)
def test_packed_weights_of_each_open_model_are_counted_on_a_cpu(
    method: str, precision: str, device: str, expected: int
) -> None:
    rows = [Completion(source="", prompt="a " * 90, completion="b " * 20)] * 8
    options = OPTIONS[method](precision=precision)  # type: ignore[arg-type]
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=rows, test=rows, assumed=None, device=device
    )  # type: ignore[arg-type]
    for count in (1, 3):
        setting = EstimateSetting.from_request(options, replace(request, model_count=count))
        parts = analytic.evaluation_memory(setting)
        assert parts.static.get("packed weights", 0) == count * expected


def test_answers_of_the_full_limit_are_only_in_the_upper_bound() -> None:
    rows = [Completion(source="", prompt="a " * 90, completion="b " * 20)] * 8
    request = EstimateRequest(
        config=STRETCHED, tokenizer=None, train=rows, test=rows, assumed=None, device="cpu"
    )
    setting = EstimateSetting.from_request(_options("lora"), request)
    parts = analytic.evaluation_memory(setting)
    token_bytes = 2 * 2 * 32 * 6 * 2  # keys and values, heads, head size, layers, bf16
    longest = sum(setting.workload.test[0].completions) + setting.workload.test[0].prompt
    assert parts.worst_case_extra == token_bytes * 8 * analytic.ANSWER_TOKENS * 7 // 4
    assert parts.dynamic["cache"] == token_bytes * 8 * longest * 3 // 2
    memory = parts.to_memory((1.0, 1.0))
    without = parts._replace(worst_case_extra=0).to_memory((1.0, 1.0))
    assert memory.high - without.high == parts.worst_case_extra
    assert memory.expected == without.expected


def test_many_short_rows_can_be_traced() -> None:
    short = Assumptions(sequence=12, micro_batch=20, rows=20)
    request = EstimateRequest(
        config=SMALL, tokenizer=None, train=(), test=(), assumed=short, device="cpu"
    )
    *_, last = techniques.estimate_supervised(LoraOptions(), request)
    assert last.method == "traced", last.notes


def test_a_model_type_that_transformers_does_not_know_is_estimated_by_arithmetic() -> None:
    request = EstimateRequest(
        config={**SMALL, "model_type": "unknown"},
        tokenizer=None, train=(), test=(), assumed=Assumptions(), device="cuda",
    )  # fmt: skip
    first, second = techniques.estimate_supervised(FullOptions(), request)
    assert second.method == "analytic"
    assert "could not be traced" in second.notes[-1]
    assert first.memory == second.memory


def test_tracing_restores_random_state_and_modes() -> None:
    before = torch.random.get_rng_state()
    trace.trace_step(_setting("lora", device="cuda"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.is_autocast_enabled("cuda")
    assert torch.ones(1).is_cpu


def test_a_real_step_after_a_trace_uses_no_fake_mask() -> None:
    setting = _setting("full")
    _trace(setting)
    adapted = _real_model(setting)
    hidden_ND = completion_hidden(adapted.model, trace._largest_micro_batch(setting))
    assert bool(hidden_ND.isfinite().all())
