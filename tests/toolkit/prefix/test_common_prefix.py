"""A common prefix is computed once and changes neither losses nor gradients."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.records import Chat, Message, Record, Text
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapters import AdaptedModel, adapt_full, adapt_lora
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.prefix.common_prefix import (
    collate_with_prefix,
    limit_prefix,
    shared_prefix_length,
)
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training import supervised
from tunesmith_torch.training.supervised import NextTokenObjective

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
    template = Template.from_tokenizer(load_model(folder, CPU, FP32, packing=True).tokenizer)
    return list(template.tokenize_records(records, 512).examples)


def gradients(
    adapted: AdaptedModel, objective: NextTokenObjective, budget: int
) -> tuple[float, dict[str, Any]]:
    adapted.model.zero_grad()
    rows = list(range(len(objective)))
    total = torch.zeros(())
    for micro_batch in objective.micro_batches(rows, budget):
        loss = objective.loss(micro_batch) / objective.counts(rows).loss_divisor
        loss.backward()
        total += loss.detach()
    return float(total), {
        n: p.grad.clone() for n, p in adapted.named_trainable_parameters if p.grad is not None
    }


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("budget", [120, 10_000])
def test_sharing_a_prefix_changes_no_loss_or_gradient(
    tmp_path: Path, full: bool, family: str, budget: int
) -> None:
    folder = save_tiny_model(tmp_path / family, family)
    base = load_model(folder, CPU, FP32, packing=True)
    options = AdapterOptions(rank=4)
    adapted = adapt_full(base, FP32) if full else adapt_lora(base, FP32, options, 1)
    with torch.no_grad():
        for name, parameter in adapted.named_trainable_parameters:
            if "lora_B" in name:  # zero at first, which would hide half of the gradients
                parameter.normal_(std=0.1)
    shared = NextTokenObjective(adapted, examples(folder, chats()), packing=True)
    plain = NextTokenObjective(adapted, examples(folder, chats()), packing=True)
    assert shared.prefix_length > 20
    plain.prefix_length = 0
    shared_result, plain_result = (
        gradients(adapted, shared, budget),
        gradients(adapted, plain, budget),
    )
    assert shared_result[0] == pytest.approx(plain_result[0], rel=1e-6)
    assert shared_result[1].keys() == plain_result[1].keys()
    for name, gradient in plain_result[1].items():
        torch.testing.assert_close(shared_result[1][name], gradient, rtol=2e-4, atol=1e-6)


def test_rows_outside_the_sample_share_as_much_as_they_have(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefix is that of a sample; a micro-batch shares what all of its rows begin with."""
    monkeypatch.setattr(supervised, "sample_evenly", lambda rows: list(rows)[:5])
    shorter = Message("system", SYSTEM.text[:40] + ", and nothing else.")
    *same, other = chats()
    assert isinstance(other, Chat)
    rows = examples(tiny_folder, [*same, replace(other, messages=(shorter, *other.messages[1:]))])
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    adapted = adapt_full(base, FP32)
    objective = NextTokenObjective(adapted, rows, packing=True)
    assert limit_prefix(rows[:-1], 1000) == objective.prefix_length > 20
    assert 0 < limit_prefix(rows, 1000) < objective.prefix_length
    plain = NextTokenObjective(adapted, rows, packing=True)
    plain.prefix_length = 0
    loss, result = gradients(adapted, objective, 10_000)
    plain_loss, plain_result = gradients(adapted, plain, 10_000)
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    for name, gradient in plain_result.items():
        torch.testing.assert_close(result[name], gradient, rtol=2e-4, atol=1e-6)


def test_fewer_tokens_are_computed(tiny_folder: Path) -> None:
    rows = examples(tiny_folder, chats())
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    P = shared_prefix_length(rows, base.model)
    batch, layout = collate_with_prefix(rows, range(len(rows)), P)
    assert batch.ids_BT.numel() == P + sum(len(e.ids) - P for e in rows)
    assert len(layout.branches) == len(rows)
    trained = sum(int(sum(e.trained)) for e in rows)
    assert len(batch.trained_N) == len(batch.targets_N) == trained


def test_the_prefix_is_empty_where_nothing_can_be_shared(tiny_folder: Path) -> None:
    model = load_model(tiny_folder, CPU, FP32, packing=True).model
    texts = [
        Text(source=f"t:{n}", text="the same start, always, and then " + "x" * n) for n in range(5)
    ]
    # All tokens of a text are trained, so each row predicts from its start.
    assert shared_prefix_length(examples(tiny_folder, list(texts)), model) == 0
    assert shared_prefix_length(examples(tiny_folder, chats(1)), model) == 0  # only one row
    padded = load_model(tiny_folder, CPU, FP32, packing=False)
    assert shared_prefix_length(examples(tiny_folder, chats()), padded.model) == 0
    rows = examples(tiny_folder, chats())
    long = Example(
        [*rows[0].ids[:30], *range(100, 400)] * 2, [*rows[0].trained[:30], *[True] * 300] * 2
    )
    assert shared_prefix_length([*rows, long], model) in (0, 30 - 1, 28, 29)


def windowed(folder: Path, window: int) -> Path:
    """Save a Mistral with a sliding window of this many tokens."""
    save_tiny_model(folder, "mistral")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": window}))
    return folder


def test_rows_longer_than_a_sliding_window_do_not_share_their_prefix(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """The longest row decides, not the few tokens of the trial."""
    rows, reasons = examples(tiny_folder, chats()), list[str]()
    window = sorted(map(len, rows))[len(rows) // 2]
    folder = windowed(tmp_path / "mistral", window)
    adapted = adapt_full(load_model(folder, CPU, FP32, packing=True), FP32)
    assert max(map(len, rows)) > window
    objective = NextTokenObjective(adapted, rows, packing=True, report=reasons.append)
    assert objective.prefix_length == 0
    (reason,) = reasons
    assert f"each row: the model's attention has a `sliding_window` of {window}" in reason
    total, _ = gradients(adapted, objective, 10_000)
    assert total > 0
    short = [row for row in rows if len(row) <= window]
    assert NextTokenObjective(adapted, short, packing=True).prefix_length > 20


@pytest.mark.parametrize("name", ["attention_dropout", "attention_probs_dropout_prob"])
def test_a_prefix_is_not_shared_where_attention_has_dropout(tiny_folder: Path, name: str) -> None:
    model = load_model(tiny_folder, CPU, FP32, packing=True).model
    rows, reasons = examples(tiny_folder, chats()), list[str]()
    assert shared_prefix_length(rows, model, reasons.append) > 20
    setattr(model.config, name, 0.1)
    assert shared_prefix_length(rows, model, reasons.append) == 0
    assert [reason.rpartition(": ")[2] for reason in reasons] == [
        "the model's attention has dropout"
    ]


def test_the_token_that_predicts_the_first_trained_token_is_not_shared(tiny_folder: Path) -> None:
    """One question with different answers: the last prompt token predicts for each row."""
    model = load_model(tiny_folder, CPU, FP32, packing=True).model
    records: list[Record] = [
        Chat(
            source=f"r:{n}", messages=(SYSTEM, Message("user", "Who?"), Message("assistant", word))
        )
        for n, word in enumerate(["yes", "no", "one two three"])
    ]
    rows = examples(tiny_folder, records)
    first = min(list(e.trained).index(True) for e in rows)
    assert shared_prefix_length(rows, model) == first - 1
