"""Generator ``endpoint``: rows that a model at an OpenAI-compatible server writes or answers.

With a larger model as the teacher, answers to given prompts are sequence-level distillation (Kim
and Rush 2016). Each request is determined by the seed and its number, so its answer is found again
in the journal after an interruption, and is not requested twice.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from tunesmith.contracts import SkippedRow
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.offers import GeneratorOffer
from tunesmith.options import DataPath, Options
from tunesmith.records import Chat, Completion, last_exchange
from tunesmith_evidence.endpoint.address import URL_PATTERN, check_endpoint

JOURNAL = "journal.jsonl"
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
        INSTRUCTIONS, min_length=1, description="What the model should write, and how."
    )
    pool: DataPath | None = Field(
        None,
        description=(
            "File of prompts that the model only answers (sequence-level distillation). Unset: it "
            "writes prompts too."
        ),
    )
    personas: list[str] = Field([], description="People who write the prompts; one per request.")
    attributes: dict[str, list[str]] = Field(
        {}, description="Values to vary, such as { tone = ['angry', 'polite'] }; one per request."
    )
    examples: int = Field(
        3, ge=0, le=20, description="Training rows to show with each request, as seeds."
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
        None, ge=1, description="Budget of tokens, prompts and answers together. Unset: no limit."
    )
    max_price: float | None = Field(
        None, gt=0, description="Budget of money, in the currency of the prices. Unset: no limit."
    )
    prompt_price: float = Field(0.0, ge=0, description="Price of a million prompt tokens.")
    answer_price: float = Field(0.0, ge=0, description="Price of a million answer tokens.")
    per_minute: int | None = Field(
        None, ge=1, description="Maximum requests per minute. Unset: no limit."
    )
    parallel: int = Field(4, ge=1, le=256, description="Requests at the same time.")
    timeout: float = Field(60.0, gt=0, description="Seconds to wait for an answer.")
    pause: float = Field(
        1.0, ge=0, description="Seconds before the first of two retries; doubled before the second."
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
        """Return the price of so many tokens."""
        return (prompt_tokens * self.prompt_price + answer_tokens * self.answer_price) / 1e6


@dataclass(frozen=True)
class RowRequest:
    """A request for one row."""

    body: Mapping[str, Any]
    parent: int | None
    pooled: Completion | Chat | None = None
    """The prompt to answer; None if the model writes the prompt."""
    label: str | None = None
    """The answer that the row must have; None: the model chooses."""

    @property
    def key(self) -> str:
        """A digest of the request, which identifies it in the journal."""
        content = json.dumps(self.body, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class EndpointGenerator:
    """Requests rows from a server."""

    options: EndpointOptions

    def generate(self, task: GeneratorTask) -> Iterator[GeneratedRow | SkippedRow]:
        """Yield a row for each usable answer, in the order of the requests.

        Raises:
            EnvironmentProblem: the key is missing, or the server cannot be used.
        """
        from tunesmith_synthetic.generators.journal import send_requests

        if not task.task.train and self.options.pool is None:
            yield SkippedRow(where="train", cause="there are no training rows to show")
            return
        requests = [*self.requests(task)]
        replies = send_requests(self.options, requests, task.folder / JOURNAL)
        for number, (request, reply) in enumerate(zip(requests, replies, strict=True), 1):
            row = reply if isinstance(reply, str) else self.read(request, reply.text, reply.cut)
            where = f"request {number}"
            yield row if not isinstance(row, str) else SkippedRow(where=where, cause=row)

    def requests(self, task: GeneratorTask) -> Iterator[RowRequest]:
        """Yield the requests, each determined by the seed and its number."""
        train = task.task.train
        if self.options.pool is not None:
            from tunesmith_synthetic.generators.pseudo_label import read_pool

            for record in read_pool(Path(self.options.pool), task.count):
                turns = _turns(last_exchange(record)[0])
                yield RowRequest(self._body(turns, task.task.seed, None), None, record)
            return
        labels = self._labels(task)
        for number in range(task.count):
            rng = random.Random(f"{task.task.seed}/{number}")
            label = labels[number % len(labels)] if labels else None
            rows = [n for n, r in enumerate(train) if label is None or _answer(r) == label]
            shown = rng.sample(rows, min(len(rows), max(1, self.options.examples)))
            text = self._describe(rng, [train[n] for n in shown[: self.options.examples]], label)
            turns = [
                {"role": "system", "content": self.options.instructions},
                {"role": "user", "content": text},
            ]
            schema = _schema(label)
            yield RowRequest(self._body(turns, rng.randrange(2**31), schema), shown[0], None, label)

    def read(self, request: RowRequest, text: str, is_cut: bool) -> GeneratedRow | str:
        """Return the row in an answer, or why there is none."""
        if is_cut:
            return "the answer was cut off"
        details = {"request": request.key}
        model = self.options.model
        if request.pooled is not None:
            from tunesmith_synthetic.generators.pseudo_label import with_answer

            record = with_answer(request.pooled, text.strip())
            return GeneratedRow(record=record, model=model, details=details)
        try:
            found = json.loads(text)
            prompt, answer = found["prompt"], found.get("completion", request.label)
        except (ValueError, LookupError, TypeError, AttributeError):
            return "the answer does not follow the schema"
        if not (isinstance(prompt, str) and isinstance(answer, str)):
            return "the answer does not follow the schema"
        if request.label is not None and answer != request.label:
            return "the answer has another label than requested"
        row = Completion(source=f"request {request.key}", prompt=prompt, completion=answer)
        return GeneratedRow(record=row, parent=request.parent, model=model, details=details)

    def _labels(self, task: GeneratorTask) -> Sequence[str]:
        from tunesmith_evidence.tasks.kinds import has_classes, list_labels

        if not (self.options.answers and has_classes(task.task.train)):
            return ()
        return list_labels([_answer(record) for record in task.task.train])

    def _describe(self, rng: random.Random, shown: Sequence[Any], label: str | None) -> str:
        lines = [
            json.dumps(
                {"prompt": _turns(last_exchange(r)[0])[-1]["content"], "completion": _answer(r)},
                ensure_ascii=False,
            )
            for r in shown
        ]
        parts = ["Examples:", *lines] if lines else []
        if self.options.personas:
            parts.append(f"Writer of the prompt: {rng.choice(self.options.personas)}")
        for name, values in sorted(self.options.attributes.items()):
            parts.append(f"{name}: {rng.choice(values)}" if values else "")
        if label is not None:
            parts.append(f"The completion must be exactly: {json.dumps(label)}")
        parts.append('Answer with a JSON object with the keys "prompt" and "completion".')
        return "\n".join(filter(None, parts))

    def _body(
        self, turns: Sequence[Mapping[str, str]], seed: int, schema: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        body = {
            "messages": [*turns],
            "temperature": self.options.temperature,
            "seed": seed,
            "max_tokens": self.options.max_new_tokens,
            "model": self.options.model,
        }
        if schema is None or not self.options.structured:
            return body
        named = {"name": "row", "strict": True, "schema": schema}
        return {**body, "response_format": {"type": "json_schema", "json_schema": named}}


def count_reserved(body: Mapping[str, Any]) -> tuple[int, int]:
    """Return upper bounds of the prompt tokens and the answer tokens of a request.

    A token has at least one byte, so the bytes of the request bound its prompt tokens.
    """
    content = json.dumps(body, ensure_ascii=False).encode()
    return len(content) + MIN_PROMPT_TOKENS, int(body["max_tokens"])


def describe_cost(options: EndpointOptions, count: int) -> str:
    """Describe what the requests may cost at most."""
    limits = []
    if options.max_tokens is not None:
        limits.append(f"{options.max_tokens:,} tokens")
    if options.max_price is not None:
        limits.append(f"{options.max_price:g} by the given prices")
    answers = options.price(0, count * options.max_new_tokens)
    price = f", up to {answers:.2f} for answers" if answers else ""
    cap = f"; it stops at {' or '.join(limits)}" if limits else "; no budget is set"
    return f"up to {count:,} requests to {options.url}{price}{cap}"


def _schema(label: str | None) -> Mapping[str, Any]:
    completion = {"type": "string"} if label is None else {"type": "string", "enum": [label]}
    return {
        "type": "object",
        "properties": {"prompt": {"type": "string"}, "completion": completion},
        "required": ["prompt", "completion"],
        "additionalProperties": False,
    }


def _turns(prompt: Any) -> list[Mapping[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": turn.role, "content": turn.text} for turn in prompt]


def _answer(record: Any) -> str:
    return last_exchange(record)[1].text.strip()


ENDPOINT: GeneratorOffer[Any] = GeneratorOffer(
    name="endpoint",
    summary="rows or answers by a model at an OpenAI-compatible server, within a budget",
    config=EndpointOptions,
    build=EndpointGenerator,
    describe_cost=describe_cost,
)
