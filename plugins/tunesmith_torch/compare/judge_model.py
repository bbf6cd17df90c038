"""The language model that judges for an evaluator: behind an endpoint, or in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from tunesmith.contracts import Finding, RunContext
from tunesmith.records import Message
from tunesmith_evidence.endpoint.address import TOKEN_VARIABLE, URL, check_endpoint
from tunesmith_evidence.judging.pairwise import Ask
from tunesmith_torch.compare.other_model import ComparisonOptions

if TYPE_CHECKING:
    from tunesmith_evidence.endpoint.client import Endpoint

__all__ = ["JudgedOptions", "open_judge", "review_endpoint"]

VERDICT_TOKENS = 8
"""Tokens of a verdict, which is one word."""


class JudgedOptions(ComparisonOptions):
    """Options of an evaluator that may ask a judge behind an endpoint."""

    endpoint: str | None = Field(
        None,
        pattern=URL,
        description=(
            "Address of the judge's OpenAI-compatible endpoint, up to /v1. Prompts and answers are "
            "sent there."
        ),
    )
    token_variable: str | None = Field(
        None,
        pattern=TOKEN_VARIABLE,
        description="Name of the environment variable with the token of the endpoint.",
    )

    @model_validator(mode="after")
    def _check_token(self) -> Self:
        if self.token_variable is not None and self.endpoint is None:
            raise ValueError("`token_variable` needs an `endpoint`")
        if self.endpoint is not None:
            check_endpoint(self.endpoint, self.token_variable)
        return self


def open_judge(
    name: str, options: JudgedOptions, labels: Sequence[str], run: RunContext | None, option: str
) -> Ask:
    """Return the function that asks the judge.

    A judge without an endpoint is a model reference, run folder or artifact: it answers with the
    most probable of the labels. ``option`` names the key with the judge's name in errors.
    """
    # Not above: offers import this module, and these import urllib.request, or torch.
    from tunesmith_evidence.endpoint.client import Endpoint
    from tunesmith_evidence.prompting.choice_model import ChoiceModel
    from tunesmith_torch.compare.open_by_name import open_by_name

    if options.endpoint is not None:
        hint = "`tunesmith resume` repeats the evaluation"
        endpoint = Endpoint(options.endpoint, name, options.token_variable, role="judge", hint=hint)
        return partial(_ask_endpoint, endpoint)
    opened = open_by_name(name, device="auto" if run is None else run.device, option=option)
    judge = ChoiceModel(opened, tuple(labels))

    def ask(prompts: Sequence[str]) -> Sequence[str]:
        turns = [(Message("user", prompt),) for prompt in prompts]
        return [generation.text for generation in judge.generate(turns, 1)]

    return ask


def _ask_endpoint(endpoint: Endpoint, prompts: Sequence[str]) -> Sequence[str]:
    turns = [{"messages": [{"role": "user", "content": prompt}]} for prompt in prompts]
    return [reply.text for reply in endpoint.ask(turns, VERDICT_TOKENS)]


def review_endpoint(options: JudgedOptions, where: str, rows: str) -> Iterator[Finding]:
    """Yield where ``rows`` are sent, and an error if the token is missing."""
    name = options.token_variable
    if options.endpoint is None:
        return
    if name is not None and not os.environ.get(name, "").strip():
        message = f"the environment variable {name} is not set"
        yield Finding(level="error", where=f"{where}.token_variable", message=message)
    message = f"prompts and answers of {rows} are sent to {options.endpoint}"
    yield Finding(level="info", where=f"{where}.endpoint", message=message)
