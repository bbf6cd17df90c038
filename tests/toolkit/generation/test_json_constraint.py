"""Answers that must be JSON, of a model whose free answers are garbage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tunesmith.errors import UsageError
from tunesmith.execution.wrapped_model import CachedModel
from tunesmith.install import install_extra
from tunesmith.records import Completion, Message, Prompt
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.prompting import json_model
from tunesmith_evidence.prompting.json_model import can_constrain, constrain_to_schema
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.tasks.json_answers import JsonStyle
from tunesmith_evidence.tasks.json_schema import derive_schema
from tunesmith_plugins.baselines.zero_shot import ZERO_SHOT
from tunesmith_plugins.evaluators.constrained_json import CONSTRAINED_JSON
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.constraints import mask_logits
from tunesmith_torch.generation.json_constraint import compile_schema
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.testing.tiny_model import build_tiny_model, build_tiny_tokenizer

pytest.importorskip("llguidance")

ANSWERS = [
    json.dumps({"queue": "card" if n % 2 else "loan", "id": f"T-{n}", "n": n, "ok": n > 3})
    for n in range(12)
]
SCHEMA = derive_schema(ANSWERS) or {}
PROMPTS: list[Prompt] = [(Message("user", f"question {n} " * (n + 1)),) for n in range(5)]
ROWS = [
    Completion(source=f"r:{n}", prompt=f"question {n}", completion=answer)
    for n, answer in enumerate(ANSWERS)
]


@pytest.fixture(scope="module")
def model() -> TorchTextModel:
    template = Template.from_tokenizer(build_tiny_tokenizer())
    return TorchTextModel(build_tiny_model(), template, torch.device("cpu"))


def is_valid(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return (
        list(value) == ["queue", "id", "n", "ok"]
        and value["queue"] in ("card", "loan")
        and value["id"] != ""
        and 0 <= value["n"] <= 999
        and isinstance(value["ok"], bool)
    )


def test_garbage_becomes_json_and_batches_change_nothing(model: TorchTextModel) -> None:
    assert not any(is_valid(answer.text) for answer in model.generate(PROMPTS, 80))
    constrained = model.constrained_to(SCHEMA)
    answers = constrained.generate(PROMPTS, 80)
    for answer in answers:
        assert is_valid(answer.text) and answer.finish_reason == "stop", answer.text
    assert answers == [constrained.generate([prompt], 80)[0] for prompt in PROMPTS]
    assert constrained.generate(PROMPTS, 80) == answers, "a constraint is not used up"
    assert not is_valid(model.generate(PROMPTS[:1], 80)[0].text), "the model itself is as before"


def test_samples_are_json_too_and_differ(model: TorchTextModel) -> None:
    answers = model.constrained_to(SCHEMA).sample([PROMPTS[0]] * 4, 120, seed=3, temperature=2.0)
    assert all(is_valid(answer.text) for answer in answers)
    assert len({answer.text for answer in answers}) > 1


def test_it_is_written_in_the_style_of_the_answers(model: TorchTextModel) -> None:
    style = JsonStyle(",", ":", opening="```json\n", closing="\n```")
    fenced = constrain_to_schema(CachedModel(PromptedModel(model, "Answer.")), SCHEMA, style)
    [answer] = fenced.generate(PROMPTS[:1], 80)
    assert answer.text.startswith('```json\n{"queue":"') and answer.text.endswith("}\n```")
    indented = constrain_to_schema(model, SCHEMA, JsonStyle(",", ": ", indent=2))
    [answer] = indented.generate(PROMPTS[:1], 120)
    assert answer.finish_reason == "length" or is_valid(answer.text)


def test_a_mask_leaves_the_tokens_that_are_allowed() -> None:
    class Only:
        def __init__(self, token: int) -> None:
            self.token = token

        def allow(self, ids: Sequence[int]) -> Tensor:
            return torch.arange(3) == self.token + len(ids)

    logits_NV = torch.tensor([[4.0, 3.0, 2.0, 9.0]] * 3)
    masked = mask_logits(logits_NV, [Only(1), None, Only(0)], [[], [], [7]])
    assert masked.argmax(-1).tolist() == [1, 3, 1]
    assert mask_logits(logits_NV, [None] * 3, [[]] * 3) is logits_NV


def test_what_cannot_be_constrained(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    assert can_constrain(CachedModel(model)) and not can_constrain(FakeTextModel())
    with pytest.raises(UsageError, match="FakeTextModel: this model does not support decoding"):
        constrain_to_schema(FakeTextModel(), SCHEMA, JsonStyle())
    with pytest.raises(UsageError, match="constrained"):
        compile_schema(
            build_tiny_tokenizer(), frozenset({2}), {"type": "nonsense"},
            item_separator=",", key_separator=":", is_indented=False,
        )  # fmt: skip
    monkeypatch.setattr(json_model, "find_spec", lambda name: None)
    assert not can_constrain(model)
    with pytest.raises(UsageError, match="not installed") as caught:
        constrain_to_schema(model, SCHEMA, JsonStyle())
    assert caught.value.hint == install_extra("json")


def test_the_baseline_and_the_evaluator(model: TorchTextModel) -> None:
    from tunesmith.contracts import BaselineTask

    task = BaselineTask(train=ROWS, base=lambda: model, seed=1)
    baseline = ZERO_SHOT.build(ZERO_SHOT.config())
    variants = {variant.name: variant.model for variant in baseline.variants(task)}
    assert list(variants) == ["plain", "with keys", "constrained"]
    assert is_valid(variants["constrained"].generate(PROMPTS[:1], 80)[0].text)
    evaluator = CONSTRAINED_JSON.build(CONSTRAINED_JSON.config(max_new_tokens=80))
    prepared = evaluator.prepare(ROWS)  # type: ignore[attr-defined]
    [measured] = prepared.measure(CachedModel(model), ROWS[:2])
    assert measured.outputs is not None and all(map(is_valid, measured.outputs))
    right = replace(ROWS[0], completion=measured.outputs[0].replace(", ", " ,\n"))
    [measured] = prepared.measure(model, [right, replace(right, completion="{}")])
    assert measured.values == (1.0, 0.0)
    with pytest.raises(UsageError, match="none of the test rows has a JSON object"):
        evaluator.measure(model, [replace(right, completion="no JSON")])
