"""A text model of tunesmith as a model of inspect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby

from inspect_ai.model import ChatMessage, GenerateConfig, Model, ModelAPI, ModelOutput, modelapi
from inspect_ai.tool import ToolChoice, ToolInfo

from tunesmith.contracts import Generation, TextModel
from tunesmith.errors import UsageError
from tunesmith.records import Message

PARALLEL = 256
"""Maximum number of prompts that the model answers together."""
WAIT = 0.05
"""Seconds without a new prompt after which the waiting prompts are answered."""
Prompt = tuple[Message, ...]
Waiting = tuple[Prompt, int, "asyncio.Future[Generation]"]


class TextModelAPI(ModelAPI):  # type: ignore[misc]  # not installed where types are checked
    """Collects the prompts that inspect sends one by one, and answers them together."""

    def __init__(self, name: str, model: TextModel, max_new_tokens: int) -> None:
        super().__init__(name)
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._waiting: list[Waiting] = []
        self._timer: asyncio.TimerHandle | None = None

    def max_connections(self) -> int:
        """Return how many prompts inspect may send at the same time."""
        return PARALLEL

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Return the greedy answer to a conversation.

        Raises:
            UsageError: the task needs tools or random answers.
        """
        if tools or config.temperature or (config.num_choices or 1) > 1:
            raise UsageError("the task needs tools or random answers, which cannot be measured")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Generation] = loop.create_future()
        limit = config.max_tokens or self._max_new_tokens
        self._waiting.append((to_prompt(input), limit, answer))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(WAIT, self._answer)
        found = await answer
        text = cut(found.text, config.stop_seqs or ())
        reason = "stop" if found.finish_reason == "stop" or text != found.text else "max_tokens"
        return ModelOutput.from_content(self.model_name, text, stop_reason=reason)

    def _answer(self) -> None:
        """Answer all waiting prompts."""
        waiting, self._waiting = sorted(self._waiting, key=lambda item: item[1]), []
        for limit, group in groupby(waiting, key=lambda item: item[1]):
            prompts, _, answers = zip(*group, strict=True)
            try:
                found = self._model.generate(prompts, limit)
            except Exception as error:
                for answer in answers:
                    answer.set_exception(error)
            else:
                for answer, generation in zip(answers, found, strict=True):
                    answer.set_result(generation)


create: Callable[..., ModelAPI] = modelapi("tunesmith")(TextModelAPI)
"""Creates the model, which inspect accepts only from a registered class."""


def to_inspect_model(model: TextModel, max_new_tokens: int) -> Model:
    """Return a text model as a model of inspect."""
    return Model(create("model", model, max_new_tokens), GenerateConfig())


def to_prompt(messages: Sequence[ChatMessage]) -> Prompt:
    """Return the texts of a conversation as messages."""
    return tuple(Message(message.role, message.text) for message in messages)


def cut(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop text."""
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text
