"""What only a real GPU can show: its memory, its kernels for 4 bits, its speed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import build
from transformers import AutoModelForCausalLM

from tunesmith.contracts import Job
from tunesmith.estimates import Assumptions, EstimateRequest
from tunesmith.events import Event, FindingReported, StepFinished
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.memory_estimate.model_shape import ModelShape
from tunesmith_torch.testing.tiny_model import build_tiny_config, build_tiny_tokenizer
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train

TECHNIQUES: dict[str, type[Any]] = {"full": FullOptions, "lora": LoraOptions, "qlora": QloraOptions}
SHAPES = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64},
    "3B": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
           "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
}  # fmt: skip
"""The sizes of Llama 3; the vocabulary is that of the tokenizer of the tests."""
ROW_TOKENS = 512
DENSE_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Operations per second that the makers name, without sparsity."""


@dataclass
class Measured:
    """A training that was measured."""

    steps: list[StepFinished]
    findings: list[str]
    peak: int
    """Most bytes that torch's allocator had reserved."""


def save_shape(folder: Path, **sizes: int) -> Path:
    """Save a Llama of this size with random weights."""
    tokenizer = build_tiny_tokenizer()
    config = build_tiny_config(vocabulary=len(tokenizer))
    config.update({**sizes, "max_position_embeddings": 4096})
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.model_max_length = 4096
    tokenizer.save_pretrained(folder)
    return folder


def measure(
    folder: Path, model: Path, device: str, technique: str, *, words: int = 240, **changes: Any
) -> Measured:
    """Train a few steps on rows of equal length."""
    rows = tuple(
        Completion(source=f"r:{n}", prompt=f"{n % 10}?", completion="ten " * words)
        for n in range(8)
    )
    events: list[Event] = []
    values = {"precision": "bf16", "batch_size": 4, "max_steps": 4, "max_length": 4096, **changes}
    folder.mkdir(parents=True)
    job: Job[Any] = Job(
        config=build(TECHNIQUES[technique], **values), model=model, train=rows, validation=(),
        out=folder,
        seed=1, device=device, checkpoints=Checkpoints(folder / "checkpoints"), emit=events.append,
        technique=technique,
    )  # fmt: skip
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    train(job, SupervisedTask())
    peak = torch.cuda.max_memory_reserved() if device == "cuda" else 0
    steps = [event for event in events if isinstance(event, StepFinished)]
    return Measured(steps, [e.message for e in events if isinstance(e, FindingReported)], peak)


def compute_mfu(
    measured: Measured, parameters: int, name: str, *, full: bool
) -> tuple[float, float]:
    """Return tokens per second, and their share of the operations that the GPU could do.

    Six operations per weight and token if all weights are trained, four if they are frozen.
    """
    per_second = statistics.median(step.tokens / step.seconds for step in measured.steps[1:])
    speed = next((flops for key, flops in DENSE_BF16_FLOPS.items() if key in name), 0.0)
    share = per_second * parameters * (6 if full else 4) / speed if speed else 0.0
    return per_second, share


@pytest.fixture
def small_limit(real_gpu: torch.device) -> Iterator[None]:
    """Let the allocator have 3 GiB."""
    total = torch.cuda.get_device_properties(real_gpu).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(3 * 2**30 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_throughput_is_that_of_the_steps(tmp_path: Path, model_folder: Path) -> None:
    """The arithmetic of the measurement, on the CPU."""
    measured = measure(tmp_path / "run", model_folder, "cpu", "lora", words=8, max_steps=3)
    per_second, share = compute_mfu(measured, 10**9, "NVIDIA H100 80GB", full=True)
    seconds = [step.tokens / step.seconds for step in measured.steps[1:]]
    assert min(seconds) <= per_second <= max(seconds)
    assert share == pytest.approx(per_second * 6e9 / 989e12)
    assert compute_mfu(measured, 10**9, "unknown", full=False)[1] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_planner_predicts_the_peak(
    shape: str, technique: str, real_gpu: torch.device, tmp_path: Path
) -> None:
    if technique == "full" and shape != "1B":
        pytest.skip("one GPU is too small for all weights of this size")
    model = save_shape(tmp_path / "model", **SHAPES[shape])
    measured = measure(tmp_path / "run", model, "cuda", technique, batch_size=2)
    tokens = measured.steps[0].tokens // 2
    config = AutoModelForCausalLM.from_pretrained(model, device_map="meta").config.to_dict()
    request = EstimateRequest(
        config=config, tokenizer=None, train=(), test=(), device="cuda",
        assumed=Assumptions(sequence=tokens, micro_batch=2, rows=8),
    )  # fmt: skip
    *_, last = techniques.estimate_supervised(build(TECHNIQUES[technique]), request)
    memory = last.memory["train"]
    outside = memory.components.get("framework", 0)
    print(f"{shape} {technique}: {memory.low:,} to {memory.high:,}, measured {measured.peak:,}")
    assert memory.low - outside <= measured.peak <= memory.high


@pytest.mark.gpu
def test_memory_that_runs_out_halves_the_micro_batch(small_limit: None, tmp_path: Path) -> None:
    sizes = {**SHAPES["1B"], "num_hidden_layers": 4}
    model = save_shape(tmp_path / "model", **sizes)
    measured = measure(
        tmp_path / "run", model, "cuda", "lora", words=1500, micro_batch_tokens=16_384
    )
    assert [text for text in measured.findings if "memory" in text], measured.findings
    assert len(measured.steps) == 4


@pytest.mark.gpu
def test_4_bit_products_are_those_of_their_weights(real_gpu: torch.device) -> None:
    import bitsandbytes as bnb

    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(
        256, 512, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
    ).to(real_gpu)
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    for rows in (1, 64):  # a kernel of its own for one row
        x = torch.randn(rows, 256, device=real_gpu).bfloat16().requires_grad_()
        out = layer(x)
        expected = x.detach().double() @ weight.double().t()
        torch.testing.assert_close(out.double(), expected, atol=5e-2, rtol=5e-2)
        out.sum().backward()
        torch.testing.assert_close(
            x.grad.double(), weight.double().sum(0).expand(rows, -1), atol=0.3, rtol=5e-2
        )


@pytest.mark.gpu
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_speed_is_reported(
    technique: str, real_gpu: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_shape(tmp_path / "model", **SHAPES["1B"])
    measured = measure(tmp_path / "run", model, "cuda", technique, words=900, max_steps=8)
    config = AutoModelForCausalLM.from_pretrained(model, device_map="meta").config.to_dict()
    count = ModelShape.from_config(config).parameters
    name = torch.cuda.get_device_name(real_gpu)
    per_second, share = compute_mfu(measured, count, name, full=technique == "full")
    with capsys.disabled():
        print(f"\n{name}, 1B, {technique}: {per_second:,.0f} tokens/s, MFU {share:.1%}")
    assert per_second > 0
