"""Rows with different adapters in one batch: each gets what its adapter gives alone."""

from __future__ import annotations

import random

import pytest
import torch
from generation_cases import END, generate_one, make_prompts, varied_model
from hypothesis import given, settings
from hypothesis import strategies as st
from shift_adapters import ShiftAdapter, add_shift_adapters
from transformers import PreTrainedModel

from tunesmith.records import Message
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.adapted_model import AdaptedModel
from tunesmith_torch.generation.continuous import ContinuousBatch, RunningSequence
from tunesmith_torch.generation.row_adapters import use_row_adapters
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

LONGEST = 15


@pytest.fixture(scope="module")
def adapted() -> tuple[PreTrainedModel, list[ShiftAdapter]]:
    model = varied_model()
    return model, add_shift_adapters(model, 3)


def generate_alone(model: PreTrainedModel, row: RunningSequence) -> tuple[int, ...]:
    with use_row_adapters([row.adapter]):
        return generate_one(model, row.prompt, row.max_new_tokens)


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5))
def test_rows_that_come_and_go_use_their_own_adapters(
    adapted: tuple[PreTrainedModel, list[ShiftAdapter]], seed: int, rows: int
) -> None:
    """The same prompts come with different adapters, also in one step."""
    model, adapters = adapted
    rng = random.Random(seed)
    prompts = make_prompts(3, seed=seed)
    sequences = [
        RunningSequence(prompt, max_new_tokens=rng.randint(1, LONGEST), adapter=adapter)
        for prompt in prompts
        for adapter in adapters
    ]
    rng.shuffle(sequences)
    waiting = list(sequences)
    with ContinuousBatch(model, end_ids=END, max_rows=rows) as batch:
        while waiting or not batch.is_empty:
            for _ in range(min(rng.randint(0, 3), len(waiting))):
                batch.add(waiting.pop())
            batch.step()
    assert [tuple(row.ids) for row in sequences] == [generate_alone(model, r) for r in sequences]
    assert len({tuple(row.ids[:1]) for row in sequences}) > 1


def test_a_model_that_cannot_batch_uses_the_adapter_of_each_row(
    adapted: tuple[PreTrainedModel, list[ShiftAdapter]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adapters = adapted
    monkeypatch.setattr(ContinuousBatch, "_find_can_batch", lambda self, length: False)
    rows = [RunningSequence([9, 8, 7], max_new_tokens=8, adapter=a, num_top=1) for a in adapters]
    with ContinuousBatch(model, end_ids=END) as batch:
        for row in rows:
            batch.add(row)
        while not batch.is_empty:
            batch.step()
    assert [tuple(row.ids) for row in rows] == [generate_alone(model, row) for row in rows]
    assert all([score.top[0][0] for score in row.scores] == row.ids for row in rows)


def test_a_text_model_has_its_adapter_in_calls_only() -> None:
    model = varied_model("llama", vocab_size=512)
    plain = varied_model("llama", vocab_size=512)
    template = Template.from_tokenizer(build_tiny_tokenizer())
    host = TorchTextModel(model, template, torch.device("cpu"))
    first, second = (AdaptedModel(host, adapter) for adapter in add_shift_adapters(model, 2))
    prompts = [(Message("user", word),) for word in ("red", "green", "blue")]
    scored = first.score(prompts, ["a", "b", "c"]), second.score(prompts, ["a", "b", "c"])
    assert scored[0] != scored[1]
    assert first.generate(prompts, 6) != second.generate(prompts, 6)
    assert first.sample(prompts, 6, seed=0) != second.sample(prompts, 6, seed=0)
    expected = TorchTextModel(plain, template, torch.device("cpu"))
    assert host.generate(prompts, 6) == expected.generate(prompts, 6)
