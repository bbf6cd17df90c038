"""Wrap an endpoint as a text model so that evaluators can measure its answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.contracts import Generation, Progress
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.records import Message, Prompt
from tunesmith_evidence.answers.generation_only import GenerationOnlyModel
from tunesmith_evidence.endpoint.client import Endpoint, Reply

__all__ = ["ANSWER_SECONDS", "EndpointModel"]

ANSWER_SECONDS = 300.0
"""Seconds to wait for an answer from an endpoint; answers can be long."""


@dataclass(frozen=True)
class EndpointModel(GenerationOnlyModel):
    """A text model that sends conversations to an endpoint. It cannot score existing answers."""

    endpoint: Endpoint

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Generate a greedy answer to each prompt, several at a time.

        Raises:
            UsageError: a prompt is plain text, not a conversation.
            EnvironmentProblem: the request failed, or hidden reasoning used up all tokens of an
                answer.
        """
        conversations = [to_conversation(prompt) for prompt in prompts]
        replies = self.endpoint.ask(conversations, max_new_tokens, progress)
        return [self._to_generation(reply, max_new_tokens) for reply in replies]

    @property
    def refusal(self) -> UsageError:
        """The error for scoring existing answers: endpoints do not return their probabilities."""
        return UsageError(
            f"{self.endpoint.url}: an endpoint returns no log-probabilities of given answers",
            hint="choose evaluators that measure generated answers, such as exact-match",
        )

    def _to_generation(self, reply: Reply, limit: int) -> Generation:
        if reply.finish_reason == "length" and not reply.text and not reply.calls:
            raise EnvironmentProblem(
                f"the endpoint at {self.endpoint.url} returned an empty answer at the limit of "
                f"{limit} tokens: hidden reasoning may have used them up",
                hint="raise the limit: --evaluator NAME --set evaluators.0.max_new_tokens=2000",
            )
        calls = [f"<tool_call>{json.dumps(call)}</tool_call>" for call in reply.calls]
        text = "\n".join(filter(None, [reply.text, *calls]))
        was_cut = reply.finish_reason == "length"
        return Generation(text, reply.tokens, "length" if was_cut else "stop")


def to_conversation(prompt: Prompt) -> dict[str, Any]:
    """Convert a prompt to OpenAI's ``messages`` and ``tools``, without earlier reasoning.

    Raises:
        UsageError: the prompt is plain text, not a conversation.
    """
    if isinstance(prompt, str):
        raise UsageError(
            "an endpoint expects conversations, but this prompt is plain text",
            hint="use rows with `prompt` or `messages`",
        )
    tools = [json.loads(tool) for message in prompt for tool in message.tools]
    return {"messages": [_to_json(m) for m in prompt], **({"tools": tools} if tools else {})}


def _to_json(message: Message) -> dict[str, Any]:
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in message.tool_calls
    ]
    optional = {"tool_calls": calls, "tool_call_id": message.tool_call_id, "name": message.name}
    return {
        "role": message.role,
        "content": message.text,
        **{key: value for key, value in optional.items() if value},
    }
