"""A text model of tunesmith as a model of the harness."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Protocol

from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs

from tunesmith.contracts import TextModel
from tunesmith.errors import UsageError
from tunesmith.records import Message, Prompt

CHAT_MARK = "\0chat:"
"""Start of a prompt that stands for a conversation; no task can contain a NUL character."""
MAX_NEW_TOKENS = 256
"""Maximum tokens of an answer if the task sets no limit, as in the harness."""


class Request(Protocol):
    """A request of the harness: a prompt, and an answer to score or settings of generation."""

    @property
    def args(self) -> tuple[Any, ...]: ...


class HarnessModel(LM):  # type: ignore[misc]  # the harness has no types
    """Answers the requests of the harness with a text model."""

    tokenizer_name = "tunesmith"

    def __init__(self, model: TextModel) -> None:
        super().__init__()
        self._model = model

    def loglikelihood(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Return the log-probability of each answer, without the end token.

        The second value, which says whether greedy decoding gives this answer, is always False:
        tasks that use it are rejected.
        """
        pairs = [move_spaces(*request.args) for request in requests]
        prompts = [to_prompt(context) for context, _ in pairs]
        scores = self._model.score(prompts, [answer for _, answer in pairs])
        return [(math.fsum(score.logprobs[:-1]), False) for score in scores]

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """Generate answers, which end before the first stop text of the task.

        Raises:
            UsageError: the task samples answers at random.
        """
        found: dict[int, str] = {}
        limits = [read_limit(request.args[1]) for request in requests]
        for limit in sorted(set(limits)):
            chosen = [number for number, own in enumerate(limits) if own == limit]
            prompts = [to_prompt(requests[number].args[0]) for number in chosen]
            answers = self._model.generate(prompts, limit)
            for number, answer in zip(chosen, answers, strict=True):
                found[number] = cut(answer.text, requests[number].args[1].get("until"))
        return [found[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Request]) -> list[float]:
        """Raise an error: a text model scores answers, not windows of a text."""
        raise UsageError("tasks that measure perplexity are not supported")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a text that stands for the conversation: the model has its own template.

        Raises:
            UsageError: the task starts the answer, which the template cannot express.
        """
        if not add_generation_prompt:
            raise UsageError("the task starts the answers (gen_prefix)", hint="set chat = false")
        return CHAT_MARK + json.dumps(chat_history)


def to_prompt(context: str) -> Prompt:
    """Return the conversation that a context stands for, or the plain text."""
    if not context.startswith(CHAT_MARK):
        return context
    turns = json.loads(context.removeprefix(CHAT_MARK))
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def move_spaces(context: str, answer: str) -> tuple[str, str]:
    """Move spaces from the end of a prompt to the answer, as the harness does.

    Most tokenizers join a space with the word after it.
    """
    kept = context if context.startswith(CHAT_MARK) else context.rstrip()
    return kept, context[len(kept) :] + answer


def read_limit(settings: dict[str, Any]) -> int:
    """Return the maximum number of tokens of an answer.

    Raises:
        UsageError: the answer is sampled at random.
    """
    found = normalize_gen_kwargs(settings, MAX_NEW_TOKENS)
    if found.get("do_sample") and found["temperature"] > 0:
        raise UsageError(
            "the task samples answers at random, but only greedy answers can be measured",
            hint="set do_sample: false in the generation_kwargs of the task",
        )
    return int(found["max_gen_toks"])


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """Return the text before the first stop text."""
    for stop in [until] if isinstance(until, str) else until or ():
        text = text.split(stop)[0] if stop else text
    return text
