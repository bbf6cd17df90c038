"""Parse requests in the format of OpenAI's API.

The server applies or rejects a parameter that changes the answer, and never ignores it. It accepts
known but unsupported parameters if they have their neutral value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tunesmith.records import Message, Part, Prompt
from tunesmith_data import RowError, parse_messages
from tunesmith_data.tools import parse_tools, tool_name
from tunesmith_plugins.commands.serve.api_error import ApiError
from tunesmith_plugins.commands.serve.images import has_images, parse_parts

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
"""Neutral values, which change nothing; other values of these parameters are rejected."""
WITHOUT_EFFECT = ("user", "metadata", "safety_identifier", "prompt_cache_key")
"""Parameters that never change an answer."""
DEFAULT_COMPLETION_TOKENS = 16
"""Maximum tokens of a completion without ``max_tokens``, as in OpenAI's API."""
ROLES = Literal["system", "developer", "user", "assistant", "tool"]
StopWord = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
Request = TypeVar("Request", bound="GenerationRequest")


class ApiModel(BaseModel):
    """Base class for parts of a request. It rejects unknown keys and wrong types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(ApiModel):
    """``stream_options`` of a request, which OpenAI's clients may send."""

    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationRequest(ApiModel):
    """The parameters that both kinds of requests share."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: StopWord | Annotated[list[StopWord], Field(max_length=16)] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @property
    def stop_words(self) -> tuple[str, ...]:
        """The texts in ``stop``; each of them ends an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def num_top(self) -> int | None:
        """The number of top tokens to return per token, or None for no log-probabilities."""
        raise NotImplementedError

    @property
    def most_tokens(self) -> int | None:
        """The maximum number of tokens per answer, or None for as many as fit."""
        raise NotImplementedError

    @property
    def prompts(self) -> list[Prompt | tuple[int, ...]]:
        """The prompts: conversations, texts or token ids."""
        raise NotImplementedError


class ApiMessage(ApiModel):
    """A turn of a conversation, as a client sends it."""

    role: ROLES
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class ChatRequest(GenerationRequest):
    """A request to ``/v1/chat/completions``."""

    messages: list[ApiMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] = "auto"

    @property
    def num_top(self) -> int | None:
        """The number of top tokens to return per token, or None for no log-probabilities."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs = true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def most_tokens(self) -> int | None:
        """The maximum number of tokens per answer, or None for as many as fit."""
        given = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(given) > 1:
            raise ApiError(
                400,
                "max_tokens and max_completion_tokens must not have different values",
                param="max_tokens",
            )
        return next(iter(given), None)

    @property
    def definitions(self) -> tuple[str, ...]:
        """The tools that the model may call, each as JSON text."""
        if not self.tools or self.tool_choice == "none":
            return ()
        try:
            return parse_tools(self.tools, "tools")
        except RowError as error:
            raise ApiError(400, str(error), param="tools") from None

    @property
    def tool_names(self) -> frozenset[str]:
        """The names of the tools that the model may call."""
        return frozenset(map(tool_name, self.definitions))

    @property
    def prompts(self) -> list[Prompt | tuple[int, ...]]:
        """The conversation, as the only prompt; its images are not decoded yet."""
        try:
            turns = [message.model_dump(exclude_none=True) for message in self.messages]
            for turn in turns:  # next to tool calls, null content means empty text
                turn.setdefault("content", "" if turn.get("tool_calls") else None)
            first, *others = _parse_turns(turns)
        except RowError as error:
            raise ApiError(400, str(error), param="messages") from None
        return [(replace(first, tools=self.definitions), *others)]


def _parse_turns(turns: list[dict[str, Any]]) -> Iterator[Message]:
    """Yield the messages of a conversation.

    Raises:
        ApiError: an image stands in another message than the user's, or cannot be used.
        RowError: a message cannot be used.
    """
    users: list[tuple[Part, ...] | None] = []
    for turn in turns:
        parts = None
        if has_images(turn["content"]):
            if turn["role"] != "user":
                what = "messages: only messages of the user can have images"
                raise ApiError(400, what, param="messages")
            parts, turn["content"] = tuple(parse_parts(turn["content"])), ""
        if turn["role"] == "user":
            users.append(parts)
    left = iter(users)
    for message in parse_messages(turns, "messages", split_inline=False):
        parts = next(left) if message.role == "user" else None
        yield message if parts is None else replace(message, content=parts)


class CompletionRequest(GenerationRequest):
    """A request to ``/v1/completions``."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def num_top(self) -> int | None:
        """The number of top tokens to return per token, or None for no log-probabilities."""
        return self.logprobs

    @property
    def most_tokens(self) -> int | None:
        """``max_tokens``, or 16 as in OpenAI's API."""
        return self.max_tokens or DEFAULT_COMPLETION_TOKENS

    @property
    def prompts(self) -> list[Prompt | tuple[int, ...]]:
        """The prompts: texts, or lists of token ids."""
        found: list[Prompt | tuple[int, ...]] = []
        is_one = isinstance(self.prompt, str) or any(isinstance(p, int) for p in self.prompt)
        for prompt in [self.prompt] if is_one else self.prompt:
            found.append(prompt if isinstance(prompt, str) else tuple(prompt))  # type: ignore[arg-type]
        if not found:
            raise ApiError(400, "prompt: must not be empty", param="prompt")
        return found


def read_request(kind: type[Request], body: object) -> Request:
    """Parse and validate the JSON body of a request.

    Raises:
        ApiError: a parameter is missing, wrong, unknown or not supported.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "the request body must be a JSON object")
    table = {name: value for name, value in body.items() if not _is_without_effect(name, value)}
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise _to_api_error(error) from None


def _is_without_effect(name: str, value: object) -> bool:
    if value is None or name in WITHOUT_EFFECT:
        return True
    return any((type(value) is not bool and value == neutral) or value is neutral
               for neutral in NEUTRAL.get(name, ()))  # fmt: skip


def _to_api_error(error: ValidationError) -> ApiError:
    """Convert the first validation error to an API error that names the parameter."""
    problem = error.errors(include_url=False, include_input=False)[0]
    param = str(problem["loc"][0]) if problem["loc"] else None
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        known = param in NEUTRAL
        what = "this value is not supported" if known else "unknown parameter"
        return ApiError(400, f"{where}: {what}", param=param, code="unsupported_parameter")
    if param == "tool_choice":
        what = 'only "auto" and "none" are supported; tool calls cannot be forced'
        return ApiError(400, f"tool_choice: {what}", param=param, code="unsupported_value")
    return ApiError(400, f"{where}: {problem['msg'].lower()}", param=param)
