"""Served answers say if a person must check them, by the rule that the run chose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from openai import OpenAI
from serving import TOOLS_TEMPLATE, Running, run_server, text_model

from tunesmith.contracts import Generation
from tunesmith.records import Message
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.review.policy import ReviewPolicy
from tunesmith_evidence.review.scores import score_answers, score_logprob
from tunesmith_plugins.commands.serve.engine import BatchedEngine, CallingEngine
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

TEXT = "What is the capital of Spain?"
PROMPT = (Message("user", TEXT),)
QUESTION: Any = [{"role": "user", "content": TEXT}]
ALL = ReviewPolicy(precision=0.9, threshold=-1e9, slope=0.1, intercept=0.3, rows=100)


class EarlyEnd(Template):
    """A template with an end token that the tiny model, which never ends, soon generates."""

    @property
    def end_ids(self) -> frozenset[int]:
        (answer,) = text_model().generate([PROMPT], 8)
        return frozenset(answer.ids[-1:])


@cache
def ending_model() -> TorchTextModel:
    template = EarlyEnd.from_tokenizer(build_tiny_tokenizer(template=TOOLS_TEMPLATE))
    return TorchTextModel(text_model().model, template, torch.device("cpu"))


class Classifier(FakeTextModel):
    def generate(self, prompts: Any, max_new_tokens: int, **more: Any) -> list[Generation]:
        return [Generation("Madrid", 2, "stop", confidence=2.0) for _ in prompts]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    engines = {
        "tuned": BatchedEngine(ending_model(), slots=4),
        "winner": CallingEngine(Classifier()),
        "base": CallingEngine(Classifier()),
    }
    policies = {"tuned": ALL, "winner": replace(ALL, threshold=2.0)}
    with run_server(engines, policies=policies) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[OpenAI]:
    with running.client() as opened:
        yield opened


def ask(client: OpenAI, model: str, **options: Any) -> tuple[Any, str | None]:
    """Return the field of the answer and the header."""
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=QUESTION, **{"max_tokens": 40, **options}
    )
    (choice,) = raw.parse().choices
    return getattr(choice, "tunesmith", None), raw.headers.get("x-tunesmith-review")


def test_the_served_confidence_is_that_of_the_evaluation(client: OpenAI) -> None:
    (answer,) = ending_model().generate([PROMPT], 40)
    assert answer.finish_reason == "stop", "the test needs a complete answer"
    (score,) = score_answers(ending_model(), [PROMPT], [answer])
    field, header = ask(client, "tuned")
    assert field == {
        "confidence": pytest.approx(ALL.confidence(score), abs=1e-4),
        "needs_review": False,
    }
    assert header == "not-needed"
    (answered,) = ALL.answer(ending_model(), [TEXT], 40)
    assert (answered.confidence, answered.needs_review) == (ALL.confidence(score), False)


def test_scores_do_not_depend_on_batch_or_order() -> None:
    prompts = [(Message("user", f"{word}? {TEXT * n}"),) for n, word in enumerate("abcdef")]
    answers = ending_model().generate(prompts, 6)
    complete = [replace(answer, finish_reason="stop") for answer in answers]
    together = score_answers(ending_model(), prompts, complete)
    for part in ([5, 2], [0], [3, 4, 1]):
        some = [prompts[n] for n in part], [complete[n] for n in part]
        alone = score_answers(ending_model(), *some)
        assert alone == pytest.approx([together[n] for n in part], abs=1e-4)


def test_a_classifier_states_its_own_confidence(client: OpenAI) -> None:
    field, header = ask(client, "winner")
    assert field == {"confidence": ALL.confidence(2.0), "needs_review": True}
    assert header == "needed"


@pytest.mark.parametrize(
    "options", [{"temperature": 1, "seed": 1}, {"stop": ["~"]}, {"max_tokens": 1}]
)
def test_answers_that_the_run_did_not_evaluate_need_a_person(
    client: OpenAI, options: dict[str, Any]
) -> None:
    field, header = ask(client, "tuned", **options)
    assert field["needs_review"] and header == "needed" and not field["confidence"]


def test_without_a_rule_nothing_is_said(client: OpenAI) -> None:
    assert ask(client, "base") == (None, None)
    answer = client.completions.create(model="tuned", prompt="a", max_tokens=2)
    assert not hasattr(answer.choices[0], "tunesmith")


def test_a_stream_ends_with_the_field(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tuned", messages=QUESTION, max_tokens=40, stream=True
    )
    choices = [chunk.choices[0] for chunk in stream]
    found = [getattr(choice, "tunesmith", None) for choice in choices]
    assert found[:-1] == [None] * (len(found) - 1) and found[-1] == ask(client, "tuned")[0]


def test_the_confidence_of_an_answer_does_not_depend_on_logprobs(client: OpenAI) -> None:
    raw = client.chat.completions.create(
        model="tuned", messages=QUESTION, max_tokens=40, logprobs=True
    )
    (choice,) = raw.choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    told = score_logprob(sum(token.logprob for token in choice.logprobs.content))
    assert choice.tunesmith == ask(client, "tuned")[0]  # type: ignore[attr-defined]
    assert choice.tunesmith["confidence"] < ALL.confidence(told), "the end token counts as well"  # type: ignore[attr-defined]
