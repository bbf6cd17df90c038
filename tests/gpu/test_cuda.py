"""Code that runs on ``cuda``: equal to the CPU, one wait per step, the attention meant for it.

Each test runs on a simulated GPU in the quick lane, and on a real one in ``make test-gpu``.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from generation_cases import END, make_prompts, varied_model
from simulated_cuda import DeviceMismatch, Gpu
from tables import build
from tests.toolkit.rlhf import test_policy_task as policy

from tunesmith.contracts import Job
from tunesmith.errors import RunStopped
from tunesmith.events import Event, StepFinished
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.kernels.varlen_attention import packed_attention
from tunesmith_torch.rlhf.policy_task import PolicyTask
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train

ROWS = tuple(
    Completion(source=f"r:{n}", prompt=f"{n}?", completion="ten " * (1 + n % 3)) for n in range(8)
)
VARLEN = "torch_attn._varlen_attn.default"
BACKWARD = "torch_attn._varlen_attn_backward.default"


def run(
    folder: Path,
    model: Path,
    device: str,
    options: type[Any] = LoraOptions,
    stop_after: int = 0,
    **changes: Any,
) -> list[float]:
    """Train; return the loss of each step. ``stop_after``: the step at which the run is stopped."""
    losses: list[float] = []

    def emit(event: Event) -> None:
        if isinstance(event, StepFinished):
            losses.append(event.loss)
            if event.step == stop_after:
                raise RunStopped("stopped", exit_code=143)

    folder.mkdir(exist_ok=True)
    values = {"precision": "bf16", "batch_size": 4, "learning_rate": 1e-3, **changes}
    job: Job[Any] = Job(
        config=build(options, **values), model=model, train=ROWS, validation=(), out=folder, seed=1,
        device=device, checkpoints=Checkpoints(folder / "checkpoints"), emit=emit, technique="test",
    )  # fmt: skip
    train(job, SupervisedTask())
    return losses


CHANGES: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"options": FullOptions},
    "padded": {"packing": False},
    "recomputed": {"gradient_checkpointing": True},
    "fp32": {"precision": "fp32"},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if name in ("padded", "recomputed") else [])
        for name in CHANGES
    ],
)
def test_training_has_the_losses_of_the_cpu(
    name: str, gpu: Gpu, tmp_path: Path, model_folder: Path
) -> None:
    changes = {"max_steps": 3, **CHANGES[name]}
    found = run(tmp_path / "gpu", model_folder, "cuda", **changes)
    expected = run(tmp_path / "cpu", model_folder, "cpu", **changes)
    assert found == pytest.approx(expected, rel=2e-3)
    assert (
        bool(gpu.operators[VARLEN])
        == bool(gpu.operators[BACKWARD])
        == (
            name not in ("padded", "fp32")  # flash attention has neither masks nor fp32
        )
    )
    assert gpu.operators["aten.mm.default"], "the model is not on the device"


def test_a_step_waits_for_the_device_once_in_our_code(
    gpu: Gpu, tmp_path: Path, model_folder: Path
) -> None:
    """And once in transformers, which looks whether rows are packed before it calls a layer."""
    seen = []
    for steps in (1, 4):
        before = gpu.fetches.copy()
        run(tmp_path / str(steps), model_folder, "cuda", max_steps=steps)
        seen.append(gpu.fetches - before)
    waits = Counter(seen[1])
    waits.subtract(seen[0])
    assert {place: count / 3 for place, count in waits.items() if count} == {
        "training/loop.py:compute_gradient": 1,
        "losses/selected_positions.py:_hidden_of_part": 1,
    }


@pytest.mark.processes
def test_a_stopped_run_continues_where_it_was(gpu: Gpu, tmp_path: Path, model_folder: Path) -> None:
    whole = run(tmp_path / "whole", model_folder, "cuda", max_steps=4)
    with pytest.raises(RunStopped):
        run(tmp_path / "run", model_folder, "cuda", max_steps=4, stop_after=2)
    rest = run(tmp_path / "run", model_folder, "cuda", max_steps=4)
    assert rest == pytest.approx(whole[2:], rel=1e-4)


@pytest.mark.parametrize("window", [None, 4])
def test_packed_attention_is_that_of_each_row(gpu: Gpu, window: int | None) -> None:
    """Against a computation in fp64 on the CPU, with fewer keys than queries."""
    lengths = (5, 1, 12)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, sum(lengths), 16).bfloat16() for heads in (4, 2, 2))
    cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    out, _ = packed_attention(
        torch.nn.Identity(), q.to("cuda"), k.to("cuda"), v.to("cuda"), None,
        cu_seq_lens_q=cu_seqlens.to("cuda"), max_length_q=max(lengths), sliding_window=window,
    )  # fmt: skip
    assert gpu.operators[VARLEN] == 1
    for (start, stop), L in zip(pairwise(cu_seqlens.tolist()), lengths, strict=True):
        q_row, k_row, v_row = (x[0, :, start:stop].double() for x in (q, k, v))
        seen = torch.ones(L, L).tril().triu(-L if window is None else 1 - window).bool()
        z = q_row @ k_row.repeat_interleave(2, 0).transpose(1, 2) / 4
        expected = z.masked_fill(~seen, float("-inf")).softmax(-1) @ v_row.repeat_interleave(2, 0)
        found = out[0, start:stop].transpose(0, 1).double().cpu()
        torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("sampler", [None, Sampler(seed=3)], ids=["greedy", "sampled"])
def test_generation_gives_the_completions_of_the_cpu(sampler: Sampler | None, gpu: Gpu) -> None:
    with torch.random.fork_rng(devices=[]):
        model = varied_model()
    prompts, limits = make_prompts(6, shared=30), {"max_new_tokens": 12, "end_ids": END}
    expected = generate(model, prompts, sampler=sampler, **limits)
    before = gpu.fetches.copy()
    found = generate(copy.deepcopy(model).to("cuda"), prompts, sampler=sampler, **limits)
    assert [answer.ids for answer in found] == [answer.ids for answer in expected]
    waits = gpu.fetches - before
    assert waits.pop("generation/sequences.py:append_next_tokens") <= 2 * 12  # ids, and log-probs
    assert not [place for place in waits if place.startswith("generation/transformers")], waits


@pytest.mark.processes
def test_a_policy_step_is_that_of_the_cpu(gpu: Gpu, tmp_path: Path, model_folder: Path) -> None:
    losses = []
    for device in ("cuda", "cpu"):
        made = policy.make_run(tmp_path / device, model_folder, max_steps=2)
        train(replace(made.job, device=device), PolicyTask(None))
        losses.append([step.loss for step in made.of(StepFinished)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert len(losses[0]) == 2
    assert gpu.fetches["training/loop.py:compute_gradient"] == 2


def test_operands_on_two_devices_are_refused(gpu: Gpu) -> None:
    """A simulated GPU would hide a defect that it does not refuse."""
    weight = torch.ones(2, 2, device="cuda")
    with pytest.raises((DeviceMismatch, RuntimeError), match="cuda:0"):
        weight @ torch.ones(2, 2)
    assert (weight * torch.tensor(2.0)).tolist() == [[2, 2], [2, 2]]  # a number is allowed
