"""The ``endpoint`` generator: rows that a model at an OpenAI-compatible server writes or answers.

With a larger model as the teacher, answers to given prompts are sequence-level distillation (Kim
and Rush 2016). Each request is determined by the seed and its number, so its answer is found again
in the journal after an interruption, and is not requested twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.contracts import SkippedRow
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.offers import GeneratorOffer
from tunesmith.records import Completion, last_exchange
from tunesmith_synthetic.generators.pool import read_answer, read_pool, with_answer
from tunesmith_synthetic.generators.row_request import EndpointOptions, RowRequest

JOURNAL = "journal.jsonl"


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
            for record in read_pool(Path(self.options.pool), task.count, task.task.seed):
                turns = _turns(last_exchange(record)[0])
                yield RowRequest(self._body(turns, task.task.seed, None), None, record)
            return
        labels = self._labels(task)
        for number in range(task.count):
            rng = random.Random(f"{task.task.seed}/{number}")
            label = labels[number % len(labels)] if labels else None
            rows = [n for n, r in enumerate(train) if label is None or read_answer(r) == label]
            shown = rng.sample(rows, min(len(rows), max(1, self.options.examples)))
            text = self._describe(rng, [train[n] for n in shown[: self.options.examples]], label)
            turns = [
                {"role": "system", "content": self.options.instructions},
                {"role": "user", "content": text},
            ]
            schema = _schema(label)
            yield RowRequest(self._body(turns, rng.randrange(2**31), schema), shown[0], None, label)

    def read(self, request: RowRequest, text: str, is_cut: bool) -> GeneratedRow | str:
        """Return the row in an answer, or the reason why the answer has no row."""
        if is_cut:
            return "the answer was cut off"
        details = {"request": request.key}
        model = self.options.model
        if request.pooled is not None:
            record = with_answer(request.pooled, text.strip())
            return GeneratedRow(record=record, model=model, details=details)
        try:
            found = json.loads(text)
            prompt, answer = found["prompt"], found.get("completion", request.label)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return "the answer does not follow the schema"
        if not (isinstance(prompt, str) and isinstance(answer, str)):
            return "the answer does not follow the schema"
        if request.label is not None and answer != request.label:
            return "the answer does not have the requested label"
        row = Completion(source=f"request {request.key}", prompt=prompt, completion=answer)
        return GeneratedRow(record=row, parent=request.parent, model=model, details=details)

    def _labels(self, task: GeneratorTask) -> Sequence[str]:
        from tunesmith_evidence.tasks.kinds import has_classes, list_labels

        if not (self.options.answers and has_classes(task.task.train)):
            return ()
        return list_labels([read_answer(record) for record in task.task.train])

    def _describe(self, rng: random.Random, shown: Sequence[Any], label: str | None) -> str:
        lines = [
            json.dumps(
                {
                    "prompt": _turns(last_exchange(r)[0])[-1]["content"],
                    "completion": read_answer(r),
                },
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


ENDPOINT: GeneratorOffer[Any] = GeneratorOffer(
    name="endpoint",
    summary="rows or answers by a model at an OpenAI-compatible server, within a budget",
    config=EndpointOptions,
    build=EndpointGenerator,
    describe_cost=describe_cost,
)
