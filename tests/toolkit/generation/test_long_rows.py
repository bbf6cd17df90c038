"""Answers and scores beside rows beyond the original context are those of each row alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from rope_models import DYNAMIC, LONGROPE, ORIGINAL_CONTEXT, phi3_longrope, rope_model
from transformers import GenerationConfig, PreTrainedModel

from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

LIMIT = 12


def prompts(shared: int) -> list[list[int]]:
    """Return prompts that stay within the original context, cross it, and begin beyond it."""
    rng = random.Random(0)
    first = [rng.randrange(3, 512) for _ in range(shared)]
    lengths = (shared + 1, ORIGINAL_CONTEXT - LIMIT, 18, ORIGINAL_CONTEXT, 30, 41)
    return [[*first, *(rng.randrange(3, 512) for _ in range(n - shared))] for n in lengths]


def generate_alone(model: PreTrainedModel, prompt: Sequence[int]) -> tuple[int, ...]:
    """Return what transformers generates for one prompt."""
    ids = torch.tensor([list(prompt)])
    config = GenerationConfig(max_new_tokens=LIMIT, do_sample=False, pad_token_id=0)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return tuple(out[0, len(prompt) :].tolist())


@pytest.mark.parametrize("shared", [0, 10])
@pytest.mark.parametrize("kind", ["phi3", "llama"])
def test_answers_do_not_depend_on_longer_rows(kind: str, shared: int) -> None:
    model = phi3_longrope() if kind == "phi3" else rope_model("llama", LONGROPE)
    rows, finished = prompts(shared), list[int]()
    answers = generate(
        model, rows, max_new_tokens=LIMIT, end_ids=frozenset(), progress=finished.append
    )
    assert [answer.ids for answer in answers] == [generate_alone(model, row) for row in rows]
    assert finished == sorted(finished)
    assert finished[-1] == len(rows)


def test_dynamic_factors_of_a_long_row_are_not_left_behind() -> None:
    """Rows beyond the context are not used by evaluators, but rotary factors must recover."""
    model = rope_model("llama", DYNAMIC, max_position_embeddings=ORIGINAL_CONTEXT)
    rows = prompts(0)
    expected = []
    for row in rows:  # a new model each, because transformers keeps the longest length
        fresh = rope_model("llama", DYNAMIC, max_position_embeddings=ORIGINAL_CONTEXT)
        expected.append(generate_alone(fresh, row))
    for order in (rows, rows[::-1]):
        answers = generate(model, order, max_new_tokens=LIMIT, end_ids=frozenset())
        got = dict(zip(map(tuple, order), answers, strict=True))
        assert [got[tuple(row)].ids for row in rows] == expected


@pytest.mark.parametrize("system", ["", "You are brief, and you are polite to all of them."])
@torch.no_grad()
def test_scores_do_not_depend_on_longer_rows(system: str) -> None:
    """With and without tokens that all rows begin with."""
    model = phi3_longrope()
    template = Template.from_tokenizer(build_tiny_tokenizer(template=None))
    text = TorchTextModel(model, template, torch.device("cpu"))
    rows = [(f"{system} one two", "a b c d"), (f"{system} " + "one two three " * 9, "a b")]
    ids = template.encode_exchanges([p for p, _ in rows], [c for _, c in rows])  # type: ignore[misc]
    assert len(ids[0][0] + ids[0][1]) <= ORIGINAL_CONTEXT + 24
    scores = text.score([p for p, _ in rows], [c for _, c in rows])  # type: ignore[misc]
    for (prompt, answer), score in zip(ids, scores, strict=True):
        row = torch.tensor([[*prompt, *answer]])
        logp = model(input_ids=row, use_cache=False).logits[0, :-1].log_softmax(-1)
        expected = logp.gather(1, row[0, 1:, None])[-len(answer) :, 0]
        torch.testing.assert_close(torch.tensor(score.logprobs), expected, atol=1e-5, rtol=1e-5)
