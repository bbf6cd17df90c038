"""A shared opening is computed once and changes nothing: losses and gradients as without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.records import Chat, Message, Record, Text
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapters import Adapted, adapt_all, adapt_lora
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.prefix.common_prefix import collate_branching, shared_opening
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training.sft_objective import Supervised

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
SYSTEM = Message("system", "You answer questions about capitals, in one word, and nothing else.")


def chats(count: int = 9) -> list[Record]:
    return [
        Chat(
            source=f"rows:{n}",
            messages=(
                SYSTEM,
                Message("user", "What is " + "the capital of " * (n % 4) + f"{n}?"),
                Message("assistant", "Paris " * (1 + n % 3)),
            ),
        )
        for n in range(count)
    ]


def examples(folder: Path, records: list[Record]) -> list[Example]:
    template = Template.of(load_model(folder, CPU, FP32, packing=True).tokenizer)
    return list(template.examples_or_left_out(records, 512).examples)


def gradients(adapted: Adapted, objective: Supervised, budget: int) -> tuple[float, dict[str, Any]]:
    adapted.model.zero_grad()
    rows = list(range(len(objective)))
    total = torch.zeros(())
    for micro_batch in objective.micro_batches(rows, budget):
        loss = objective.loss(micro_batch) / objective.counts(rows).units
        loss.backward()
        total += loss.detach()
    return float(total), {n: p.grad.clone() for n, p in adapted.trainable if p.grad is not None}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("budget", [120, 10_000])
def test_sharing_changes_nothing(tmp_path: Path, full: bool, family: str, budget: int) -> None:
    folder = save_tiny_model(tmp_path / family, family)
    base = load_model(folder, CPU, FP32, packing=True)
    options = LoraOptions(rank=4, precision="fp32")
    adapted = adapt_all(base, FP32) if full else adapt_lora(base, FP32, options, 1)
    with torch.no_grad():
        for name, parameter in adapted.trainable:
            if "lora_B" in name:  # zero at first, which would hide half of the gradients
                parameter.normal_(std=0.1)
    shared = Supervised(adapted, examples(folder, chats()), packing=True)
    plain = Supervised(adapted, examples(folder, chats()), packing=True)
    assert shared.opening > 20
    plain.opening = 0
    ours, theirs = gradients(adapted, shared, budget), gradients(adapted, plain, budget)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=2e-4, atol=1e-6)


def test_fewer_tokens_are_computed(tiny_folder: Path) -> None:
    made = examples(tiny_folder, chats())
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    P = shared_opening(made, base.model)
    batch, layout = collate_branching(made, range(len(made)), P)
    assert batch.ids_BT.numel() == P + sum(len(e.ids) - P for e in made)
    assert len(layout.branches) == len(made)
    trained = sum(int(sum(e.trained)) for e in made)
    assert len(batch.trained_N) == len(batch.targets_N) == trained


def test_where_nothing_can_be_shared(tiny_folder: Path) -> None:
    model = load_model(tiny_folder, CPU, FP32, packing=True).model
    texts = [
        Text(source=f"t:{n}", text="the same start, always, and then " + "x" * n) for n in range(5)
    ]
    assert shared_opening(examples(tiny_folder, list(texts)), model) == 0  # learned from the start
    assert shared_opening(examples(tiny_folder, chats(1)), model) == 0  # one row shares nothing
    padded = load_model(tiny_folder, CPU, FP32, packing=False)
    assert shared_opening(examples(tiny_folder, chats()), padded.model) == 0
    made = examples(tiny_folder, chats())
    long = Example(
        [*made[0].ids[:30], *range(100, 400)] * 2, [*made[0].trained[:30], *[True] * 300] * 2
    )
    assert shared_opening([*made, long], model) in (0, 30 - 1, 28, 29)


def test_the_token_before_the_first_guess_is_never_shared(tiny_folder: Path) -> None:
    """The same question with different answers: the last prompt token guesses for each row."""
    model = load_model(tiny_folder, CPU, FP32, packing=True).model
    rows: list[Record] = [
        Chat(
            source=f"r:{n}", messages=(SYSTEM, Message("user", "Who?"), Message("assistant", word))
        )
        for n, word in enumerate(["yes", "no", "one two three"])
    ]
    made = examples(tiny_folder, rows)
    first = min(list(e.trained).index(True) for e in made)
    assert shared_opening(made, model) == first - 1
