"""Options of the ``endpoint`` generator, and the requests that it sends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import Field, field_validator, model_validator

from tunesmith.options import DataPath, Options
from tunesmith.records import Chat, Completion
from tunesmith_evidence.endpoint.address import URL_PATTERN, check_endpoint

INSTRUCTIONS = "Write one new, realistic row of training data. Do not repeat an example."
MIN_PROMPT_TOKENS = 64
"""Tokens that the server's chat template adds to a conversation at most."""


class EndpointOptions(Options):
    """Options of ``[generator] use = "endpoint"``."""

    url: str = Field(pattern=URL_PATTERN, description="Address of the server, up to `/v1`.")
    model: str = Field(min_length=1, description="Name of the model at the server.")
    token: str | None = Field(
        None, description="Environment variable with the server's key, never the key itself."
    )
    instructions: str = Field(
        INSTRUCTIONS, min_length=1, description="Instructions to the model: what to write, and how."
    )
    pool: DataPath | None = Field(
        None,
        description=(
            "File of prompts that the model only answers (sequence-level distillation). Unset: the "
            "model writes the prompts too."
        ),
    )
    personas: list[str] = Field([], description="People who write the prompts; one per request.")
    attributes: dict[str, list[str]] = Field(
        {}, description="Values to vary, such as { tone = ['angry', 'polite'] }; one per request."
    )
    examples: int = Field(
        3, ge=0, le=20, description="Number of training rows to show as examples with each request."
    )
    answers: bool = Field(
        True,
        description=(
            "Request each label equally often, if answers are classes. false: the model chooses."
        ),
    )
    structured: bool = Field(
        True, description="Ask the server to follow a JSON schema (`response_format`)."
    )
    temperature: float = Field(1.0, ge=0, le=2, description="Sampling temperature.")
    max_new_tokens: int = Field(400, ge=1, le=32_768, description="Maximum tokens per answer.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Maximum tokens of all prompts and answers together. Unset: no limit.",
    )
    max_price: float | None = Field(
        None, gt=0, description="Maximum cost, in the currency of the prices. Unset: no limit."
    )
    prompt_price: float = Field(0.0, ge=0, description="Price of a million prompt tokens.")
    answer_price: float = Field(0.0, ge=0, description="Price of a million answer tokens.")
    per_minute: int | None = Field(
        None, ge=1, description="Maximum requests per minute, without retries. Unset: no limit."
    )
    parallel: int = Field(4, ge=1, le=256, description="Number of requests at the same time.")
    timeout: float = Field(60.0, gt=0, description="Seconds to wait for an answer.")
    pause: float = Field(
        1.0,
        ge=0,
        description="Seconds before the first retry, doubled before the second and last one.",
    )

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: str | None, info: Any) -> str | None:
        check_endpoint(info.data.get("url", ""), token)
        return token

    @model_validator(mode="after")
    def _check_price(self) -> EndpointOptions:
        if self.max_price is not None and not (self.prompt_price or self.answer_price):
            raise ValueError("max_price needs prompt_price or answer_price")
        return self

    def price(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Return the price of a request, whose prices per million tokens are in the options."""
        return (prompt_tokens * self.prompt_price + answer_tokens * self.answer_price) / 1e6


@dataclass(frozen=True)
class RowRequest:
    """The body of a request to the endpoint, and the parent row it was made from."""

    body: Mapping[str, Any]
    parent: int | None
    pooled: Completion | Chat | None = None
    """The prompt to answer; None if the model writes the prompt."""
    label: str | None = None
    """The answer that the row must have; None: the model chooses."""

    @cached_property
    def key(self) -> str:
        """A digest of the request, which identifies it in the journal."""
        content = json.dumps(self.body, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def count_reserved(body: Mapping[str, Any]) -> tuple[int, int]:
    """Return upper bounds of the prompt tokens and the answer tokens of a request.

    A token has at least one byte, so the bytes of the request bound its prompt tokens.
    """
    content = json.dumps(body, ensure_ascii=False).encode()
    return len(content) + MIN_PROMPT_TOKENS, int(body["max_tokens"])
