"""Language models that judge answers for an evaluator, behind an endpoint or in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from tunesmith.contracts import Finding, RunContext
from tunesmith.records import Message
from tunesmith_evidence.endpoint.address import TOKEN_VARIABLE, URL_PATTERN, check_endpoint
from tunesmith_evidence.judging.pairwise import AskJudge
from tunesmith_torch.compare.other_model import ComparisonOptions

if TYPE_CHECKING:
    from tunesmith_evidence.endpoint.client import Endpoint

__all__ = ["JudgeEndpointOptions", "open_judge", "review_endpoint"]

VERDICT_TOKENS = 8
"""Maximum number of tokens of the judge's verdict, which is one word."""


class JudgeEndpointOptions(ComparisonOptions):
    """Options of an evaluator that compares models and may ask a judge behind an endpoint."""

    endpoint: str | None = Field(
        None,
        pattern=URL_PATTERN,
        description=(
            "Address of the judge's OpenAI-compatible endpoint, up to /v1. Prompts and answers "
            "are sent there."
        ),
    )
    token_variable: str | None = Field(
        None,
        pattern=TOKEN_VARIABLE,
        description="Environment variable with the endpoint's access token.",
    )

    @model_validator(mode="after")
    def _check_token(self) -> Self:
        if self.token_variable is not None and self.endpoint is None:
            raise ValueError(
                "`token_variable` has no effect without `endpoint`: set both or neither"
            )
        if self.endpoint is not None:
            check_endpoint(self.endpoint, self.token_variable)
        return self


def open_judge(
    name: str,
    options: JudgeEndpointOptions,
    labels: Sequence[str],
    run: RunContext | None,
    option: str,
) -> AskJudge:
    """Return a function that sends prompts to the judge and returns its verdicts.

    With an endpoint, ``name`` is the model's name there. Without one, ``name`` is a model
    reference, a run folder or an artifact, and the judge answers with the most probable of
    ``labels``. ``option`` is the option that contains the name; errors mention it.
    """
    # Offers import this module, so urllib.request and torch must not be imported at the top.
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


def review_endpoint(options: JudgeEndpointOptions, where: str, rows: str) -> Iterator[Finding]:
    """Yield a note that ``rows`` are sent to the endpoint, and an error if its token is not set.

    Yield nothing if the options have no endpoint.
    """
    name = options.token_variable
    if options.endpoint is None:
        return
    if name is not None and not os.environ.get(name, "").strip():
        message = f"the environment variable {name} is not set; set it to the endpoint's token"
        yield Finding(level="error", where=f"{where}.token_variable", message=message)
    message = f"prompts and answers of {rows} are sent to {options.endpoint}"
    yield Finding(level="info", where=f"{where}.endpoint", message=message)
