"""Guesses from a row's own text: the same tokens in fewer steps, and few wrong guesses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from generation_cases import END, VOCABULARY, generate_one, make_prompts, varied_model
from transformers import PreTrainedModel

from tunesmith_torch.generation.cache_check import can_use_cached_attention
from tunesmith_torch.generation.continuous import ContinuousBatch, RunningSequence
from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.prompt_lookup import MAX_GUESSES, MAX_PAUSE, PromptLookup
from tunesmith_torch.generation.sampling import Sampler

NEVER = frozenset[int]()
LIMIT = 40


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """A model whose completions soon repeat themselves, because attention counts little."""
    model = varied_model()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.mul_(0.01)
    can_use_cached_attention(model, 1)
    return model


@pytest.fixture(scope="module")
def plain(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """Completions from forward passes over the whole row, without a cache or guesses."""
    completions = []
    for prompt in make_prompts(4):
        ids = list(prompt)
        for _ in range(LIMIT):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        completions.append(tuple(ids[len(prompt) :]))
    return completions


@contextmanager
def recorded_steps(model: PreTrainedModel) -> Iterator[list[int]]:
    """Yield a list that gets the number of tokens of each forward pass after the prompt's."""
    steps: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: steps.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        yield steps
    finally:
        hook.remove()


def test_guessing_changes_no_token(model: PreTrainedModel, plain: list[tuple[int, ...]]) -> None:
    for prompt, expected in zip(make_prompts(4), plain, strict=True):
        with recorded_steps(model) as steps:
            (answer,) = generate(model, [prompt], max_new_tokens=LIMIT, end_ids=NEVER)
        assert answer.ids == expected
        assert len(steps) < LIMIT * 0.7, "several tokens per step"
        assert len(set(expected)) > 3


def test_guessing_changes_no_sample_or_logprob(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, sampler = make_prompts(3, longest=9), Sampler(temperature=0.2, seed=1)
    options = {"max_new_tokens": LIMIT, "end_ids": frozenset({3}), "sampler": sampler}
    guessed = [generate(model, [prompt], **options)[0] for prompt in prompts]  # type: ignore[arg-type]
    monkeypatch.setattr(PromptLookup, "guess", lambda *_, **__: [])
    plain = [generate(model, [prompt], **options)[0] for prompt in prompts]  # type: ignore[arg-type]
    for found, expected in zip(guessed, plain, strict=True):
        assert found.ids == expected.ids
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_guesses_end_where_a_row_ends(model: PreTrainedModel, plain: list[tuple[int, ...]]) -> None:
    prompt, expected = make_prompts(4)[0], plain[0]
    for limit in range(LIMIT - 12, LIMIT):
        (answer,) = generate(model, [prompt], max_new_tokens=limit, end_ids=NEVER)
        assert answer.ids == expected[:limit]
    end = expected[-1]
    stop = expected.index(end) + 1
    (answer,) = generate(model, [prompt], max_new_tokens=LIMIT, end_ids=frozenset({end}))
    assert (answer.ids, answer.finish_reason) == (expected[:stop], "stop")


def test_right_and_wrong_guesses_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose tokens depend on all earlier ones, and guesses that are right up to a point."""
    model = varied_model()
    for prompt in make_prompts(4):
        expected = generate_one(model, prompt, LIMIT)

        def guess(_: object, generated: list[int], limit: int, **__: int) -> list[int]:
            count = len(generated)
            right = expected[count : count + count % 4]  # noqa: B023 - called in this iteration
            return [*right, 7, 8][:limit]

        monkeypatch.setattr(PromptLookup, "guess", guess)
        with recorded_steps(model) as steps:
            (answer,) = generate(model, [prompt], max_new_tokens=LIMIT, end_ids=END)
        assert answer.ids == expected
        assert max(steps[-len(expected) :]) > 3 or len(expected) < 4


def test_unused_guesses_end_when_a_row_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next token equals an unused guess, which was made for an earlier position."""
    model, prompts = varied_model(), make_prompts(4)
    expected = [generate_one(model, prompt, LIMIT) for prompt in prompts]
    first, other = max(range(4), key=lambda row: len(expected[row])), 0

    def guess(_: object, generated: list[int], limit: int, **__: int) -> list[int]:
        return [*expected[first][len(generated) + 2 : len(generated) + 3]] * min(limit, 2)

    monkeypatch.setattr(PromptLookup, "guess", guess)
    with ContinuousBatch(model, end_ids=END) as batch:
        row = RunningSequence(prompt=prompts[first], max_new_tokens=LIMIT)
        batch.add(row)
        for _ in range(2):
            batch.step()
        batch.add(RunningSequence(prompt=prompts[other], max_new_tokens=3))
        while batch.step():
            pass
    assert len(row.ids) > 8 and tuple(row.ids) == expected[first]


def test_a_step_gives_one_token_although_it_computes_several(model: PreTrainedModel) -> None:
    row = RunningSequence(prompt=make_prompts(1)[0], max_new_tokens=LIMIT)
    with ContinuousBatch(model, end_ids=NEVER) as batch, recorded_steps(model) as steps:
        batch.add(row)
        for count in range(1, LIMIT + 1):
            assert batch.step() == [row] and len(row.ids) == count
    assert len(steps) < LIMIT


def test_the_last_occurrence_is_followed() -> None:
    lookup = PromptLookup([1, 2, 3, 10, 1, 2, 3, 20, 21, 22, 1, 2])
    assert lookup.guess([], 9, num_wrong=0) == [], "2 1 2 is new"
    assert lookup.guess([3], 9, num_wrong=0) == [20]
    assert lookup.guess([3, 20], 9, num_wrong=0) == [21, 22]
    assert lookup.guess([3, 20, 21, 22], 1, num_wrong=0) == [1], "the limit"
    assert PromptLookup([7, 7, 7, 7]).guess([], 3, num_wrong=0) == [7]


@pytest.mark.parametrize("right", [True, False])
def test_guesses_grow_while_they_are_right_and_pause_while_not(right: bool) -> None:
    ids = [1, 2, 3, 4, 5] * 100
    lookup, generated, counts = PromptLookup(ids[:10]), list[int](), list[int]()
    for token in ids[10:]:
        generated.append(token)
        guesses = lookup.guess(generated, 100, num_wrong=0 if right or not counts else counts[-1])
        counts.append(len(guesses))
    if right:
        assert max(counts) == MAX_GUESSES == counts[-1]
    else:
        asked = [position for position, count in enumerate(counts) if count]
        assert set(counts) == {0, 1}
        assert asked[-1] - asked[-2] >= MAX_PAUSE, "hardly any guesses in the end"
        assert len(asked) < 20


def test_random_text_has_few_guesses() -> None:
    numbers = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (600,), generator=numbers).tolist()
    lookup = PromptLookup(ids[:200])
    asked, wrong = 0, 0
    for end in range(201, 600):
        guesses = lookup.guess(ids[200:end], 8, num_wrong=wrong)
        asked += len(guesses)
        wrong = len(guesses) if guesses and guesses[0] != ids[end] else 0
    assert asked < 10
