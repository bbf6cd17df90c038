"""Answers with a constraint that are known from answers without one: the same, only sooner."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tunesmith.records import Message, Prompt
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation import known_answers, text_model
from tunesmith_torch.generation.known_answers import KnownAnswers
from tunesmith_torch.generation.sequences import GeneratedSequence
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.testing.tiny_model import build_tiny_model, build_tiny_tokenizer

PROMPTS: list[Prompt] = [(Message("user", f"question {n} " * (n + 1)),) for n in range(9)]
LIMIT = 12


class Forbid:
    """Forbids a share of the tokens, different ones at each place of the answer."""

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus

    def allow(self, ids: Sequence[int]) -> Tensor:
        return torch.arange(512) % self.modulus != (17 * len(ids) + 5) % self.modulus


def constrained(model: TorchTextModel, modulus: int) -> TorchTextModel:
    other = model.constrained_to({"type": "object", "properties": {}})
    other._constrain = lambda: Forbid(modulus)
    return other


def open_model(*, keeps: bool = True) -> TorchTextModel:
    template = Template.from_tokenizer(build_tiny_tokenizer())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TorchTextModel(build_tiny_model(), template, torch.device("cpu"), keeps_prefix=keeps)


@pytest.mark.parametrize("free_limit", [LIMIT - 5, LIMIT, LIMIT + 7])
@pytest.mark.parametrize("modulus", [3, 40, 10**6])
def test_answers_are_those_of_a_model_that_knows_none(
    modulus: int, free_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llguidance")
    generated: list[int] = []

    def count(*args: object, **options: object) -> list[GeneratedSequence]:
        generated.append(len(args[1]))  # type: ignore[arg-type]
        return generate(*args, **options)  # type: ignore[arg-type]

    generate = text_model.generate
    expected = constrained(open_model(keeps=False), modulus).generate(PROMPTS, LIMIT)
    model = open_model()
    model.generate(PROMPTS[1:], free_limit)
    monkeypatch.setattr(text_model, "generate", count)
    done: list[int] = []
    assert constrained(model, modulus).generate(PROMPTS, LIMIT, progress=done.append) == expected
    if modulus == 3:  # hardly any free answer is allowed
        assert generated[0] >= len(PROMPTS) - 2
    if modulus == 10**6:  # all are, unless they were cut off earlier; one prompt is new
        assert generated == [1 if free_limit >= LIMIT else len(PROMPTS)]
    assert max(done, default=len(PROMPTS)) == len(PROMPTS)


def test_samples_and_models_that_may_change_use_no_known_answers() -> None:
    pytest.importorskip("llguidance")
    model = open_model()
    model.generate(PROMPTS, LIMIT)
    free = constrained(model, 10**6)
    found = free.sample(PROMPTS, LIMIT, seed=1, temperature=3.0)
    assert found == constrained(open_model(), 10**6).sample(PROMPTS, LIMIT, seed=1, temperature=3.0)
    assert open_model(keeps=False)._known_answers is None


def test_tokens_beyond_a_mask_are_forbidden() -> None:
    class Short:
        def allow(self, ids: Sequence[int]) -> Tensor:
            return torch.ones(4, dtype=torch.bool)

    known = KnownAnswers()
    known.add(
        [[1], [2]], [GeneratedSequence((3, 2), "stop", ()), GeneratedSequence((4,), "stop", ())]
    )
    assert known.find([[1], [2], [7]], 5, Short) == {0: GeneratedSequence((3, 2), "stop", ())}


def test_the_oldest_answers_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_answers, "MAX_ANSWERS", 3)
    known = KnownAnswers()
    for prompt in range(5):
        known.add([[prompt]], [GeneratedSequence((1, 2), "stop", ())])
    found = known.find([[prompt] for prompt in range(5)], LIMIT, lambda: Forbid(10**6))
    assert sorted(found) == [2, 3, 4]
