"""Memory of each of several processes, against the weights of a real model, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import build
from tests.benchmarks.rank_memory import SHAPES, Training, predict, save_model
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.estimates import Assumptions, Estimate, EstimateRequest
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.memory_estimate import analytic, techniques
from tunesmith_torch.memory_estimate.per_rank import BUCKET_BYTES, ShardSizes, sum_buffer_bytes
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.timeline import StepPosition

CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
    "tie_word_embeddings": True, "max_position_embeddings": 512,
}  # fmt: skip
REQUEST = EstimateRequest(
    config=CONFIG, tokenizer=None, train=(), test=(), device="cpu",
    assumed=Assumptions(sequence=64, rows=64),
)  # fmt: skip
SHARDED = {"parallel": "sharded", "precision": "fp32"}


def make_setting(processes: int, options: Any = None, **config: Any) -> EstimateSetting:
    request = replace(REQUEST, processes=processes, config={**CONFIG, **config})
    return EstimateSetting.from_request(options or build(FullOptions, **SHARDED), request)


def count_weights(**config: Any) -> tuple[int, int]:
    """Return the weights of a layer, and those outside of all layers, of transformers' model."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**{**CONFIG, **config}))
    layer = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    return layer, sum(parameter.numel() for parameter in model.parameters()) - 6 * layer


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_each_process_stores_its_part_of_weights_and_moments(processes: int, tied: bool) -> None:
    layer, outside = count_weights(tie_word_embeddings=tied)
    setting = make_setting(processes, tie_word_embeddings=tied)
    stored = analytic.stored_memory(setting)
    assert stored["weights"] == (6 * layer + outside) * 4 // processes
    assert stored["optimizer"] == (6 * layer + outside) * 8 // processes
    assert "masters" not in stored


def test_weights_that_compute_in_bf16_are_stored_in_fp32_without_further_masters() -> None:
    in_bf16 = build(FullOptions, parallel="sharded", precision="bf16")
    assert analytic.stored_memory(make_setting(2, in_bf16)) == analytic.stored_memory(
        make_setting(2)
    )
    copies = analytic.stored_memory(make_setting(2, build(FullOptions, precision="bf16")))
    assert copies["masters"] == 2 * copies["weights"]


@pytest.mark.parametrize("tied", [True, False])
def test_most_is_gathered_in_a_layer_or_with_the_gradients_of_the_embeddings(tied: bool) -> None:
    """A layer, the one that arrives, gradients of the one before and their copy; or, at the end,
    the gradients of embeddings and head beside those of the first layer."""
    for vocabulary in (512, 1 << 14):
        config = {"vocab_size": vocabulary, "tie_word_embeddings": tied}
        layer, outside = count_weights(**config)
        embeddings = vocabulary * 128
        in_a_layer, at_the_end = outside + embeddings + 4 * layer, outside + 2 * embeddings + layer
        assert (in_a_layer > at_the_end) == (vocabulary == 512)
        for processes in (2, 4):
            found = ShardSizes(make_setting(processes, **config)).gathered
            assert found == max(in_a_layer, at_the_end) * 4


def test_layers_that_compute_in_bf16_arrive_in_it_and_their_gradients_are_summed_in_fp32() -> None:
    layer, outside = count_weights()
    shards = ShardSizes(make_setting(2, build(FullOptions, parallel="sharded", precision="bf16")))
    assert shards.gathered_at(StepPosition("0.0.backward", 3)) == outside * 2 + layer * (4 + 8)
    assert shards.gathered_at(StepPosition("0.0.forward", 3)) == (outside + 3 * layer) * 2
    assert shards.gathered_at(StepPosition("0.clip")) == outside * 8
    assert shards.gathered_at(StepPosition("weights")) == 0
    adapters = ShardSizes(make_setting(2, build(LoraOptions, **SHARDED)))
    at = [adapters.gathered_at(StepPosition(f"0.0.{part}", 3)) for part in ("forward", "backward")]
    assert at == [adapters.gathered] * 2


@pytest.mark.long
@pytest.mark.parametrize("technique", ["full", "lora"])
def test_the_prediction_is_what_two_processes_take(tmp_path: Path, technique: str) -> None:
    """By torch's allocator, for a model of 5 million weights."""
    shape = {**SHAPES["deep"], "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6}
    save_model(tmp_path / "deep", shape)
    training = Training("deep", technique, "sharded", 2)
    predicted, _ = predict(training, tmp_path / "deep")
    measured = training.run(tmp_path)
    for name in ("stored", "step"):
        assert predicted[name] == pytest.approx(max(each[name] for each in measured), rel=0.06)


def test_the_whole_model_comes_beside_the_parts_now_and_then() -> None:
    layer, outside = count_weights()
    whole = (6 * layer + outside + max(layer, outside)) * 4
    (first, *_) = techniques.estimate_supervised(
        build(FullOptions, **SHARDED), replace(REQUEST, processes=4)
    )
    assert first.memory["gather"].components["whole weights"] == whole
    assert list(first.memory) == ["load", "train", "gather", "evaluate"]


def estimates(options: Any, processes: int) -> list[Estimate]:
    request = replace(REQUEST, processes=processes)
    return list(techniques.estimate_supervised(options, request))


def tensors(estimate: Estimate, *names: str) -> int:
    return sum(estimate.memory["train"].components.get(name, 0) for name in names)


@pytest.mark.parametrize("method", [0, 1], ids=["analytic", "traced"])
def test_both_methods_divide_what_is_stored(method: int) -> None:
    options = build(FullOptions, **SHARDED, batch_size=16, micro_batch_tokens=128)
    one, two, four = (estimates(options, n)[method] for n in (1, 2, 4))
    names = ("weights", "optimizer", "gradients")
    assert tensors(two, *names) == pytest.approx(tensors(one, *names) / 2, rel=1e-3)
    assert tensors(four, *names) == pytest.approx(tensors(one, *names) / 4, rel=1e-3)
    assert tensors(two, "gathered") > 0 == tensors(one, "gathered")


def test_copies_need_a_buffer_for_sums_at_the_end_of_the_backward_pass() -> None:
    small = make_setting(2, build(LoraOptions, precision="fp32"))
    assert sum_buffer_bytes(small) == small.trainable_parameters * 4
    large = make_setting(2, build(FullOptions), vocab_size=1 << 18)
    assert sum_buffer_bytes(large) == BUCKET_BYTES
    assert sum_buffer_bytes(make_setting(1, build(FullOptions))) == 0
    assert sum_buffer_bytes(make_setting(2)) == 0  # FSDP's own are gathered ones


def test_a_process_computes_its_share_of_a_batch() -> None:
    """Eight rows of 64 tokens in micro-batches of 256: two for one process, one for two."""
    options = build(FullOptions, batch_size=8, micro_batch_tokens=256)
    one, two, four = (make_setting(n, options).workload for n in (1, 2, 4))
    assert [w.micro_batch_tokens for w in (one, two, four)] == [256, 256, 128]
    assert [w.accumulates_gradients for w in (one, two, four)] == [True, False, False]
    assert one.steps == two.steps and one.tokens == two.tokens
