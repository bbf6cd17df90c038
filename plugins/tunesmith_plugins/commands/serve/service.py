"""The way of a request: check, encode, queue, collect. It runs in the event loop."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tunesmith_cli.serving import ServedAnswer, ServedRequest
from tunesmith_plugins.commands.serve.api_error import ApiError
from tunesmith_plugins.commands.serve.api_request import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from tunesmith_plugins.commands.serve.engine import BatchedEngine, Engine
from tunesmith_plugins.commands.serve.extensions import Extension
from tunesmith_plugins.commands.serve.job import Channel, Choice, Job, Piece
from tunesmith_plugins.commands.serve.limits import Limits
from tunesmith_plugins.commands.serve.metrics import Metrics
from tunesmith_plugins.commands.serve.model_thread import ModelThread

R = TypeVar("R", bound=GenerationRequest)
T = TypeVar("T")
GREEDY_BELOW = 1e-3
"""A lower temperature is 0: logits divided by it would overflow."""


@dataclass(eq=False)
class Ticket:
    """A request that is being answered."""

    id: str
    model: str
    jobs: Sequence[Job]
    channel: Channel
    prompt_tokens: int
    deadline: float
    """Time of the event loop at which the request is given up."""
    completion_tokens: int = 0
    """Tokens of the finished answers."""
    pieces: list[Piece] = field(default_factory=list)

    def to_answer(self) -> ServedAnswer:
        """Return the answer as extensions observe it."""
        choices = [[p for p in self.pieces if p.index == n] for n in range(len(self.jobs))]
        ends = (pieces[-1].finish_reason if pieces else None for pieces in choices)
        return ServedAnswer(
            id=self.id,
            model=self.model,
            texts=tuple("".join(p.text for p in pieces) for pieces in choices),
            finish_reasons=tuple(end or "unfinished" for end in ends),
            logprobs=tuple(tuple(s.token[1] for p in c for s in p.scores) for c in choices),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            seconds=time.monotonic() - self.jobs[0].created,
        )


class Service:
    """Answers requests with the models of a run."""

    def __init__(
        self, thread: ModelThread, limits: Limits, extensions: Sequence[Extension] = ()
    ) -> None:
        self.thread, self.limits, self.extensions = thread, limits, extensions
        self.created = int(time.time())
        self.metrics = Metrics(self._count_answers)
        # One worker: a tokenizer is used by one thread, and a slow template holds up no tokens.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="tunesmith-encode")
        self._reserved: Counter[str] = Counter()
        self._durations: deque[float] = deque(maxlen=32)
        for extension in extensions:
            extension.start(self.metrics)

    def close(self, seconds: float) -> None:
        """Stop encoding; wait at most so long for each extension."""
        self._encoder.shutdown(wait=False, cancel_futures=True)
        for extension in self.extensions:
            extension.stop(seconds)

    def find_engine(self, model: str) -> Engine:
        """Return the engine of a model.

        Raises:
            ApiError: there is none of this name.
        """
        if model not in self.thread.engines:
            known = ", ".join(self.thread.engines)
            what = f"model: there is none of this name; the models are {known}"
            raise ApiError(404, what, param="model", code="model_not_found")
        return self.thread.engines[model]

    async def choose(self, request: R, seen: ServedRequest) -> R:
        """Return the request for the model that an extension chooses, or else as it is.

        Raises:
            ApiError: an extension refuses the request, fails, or takes too long.
        """
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        for extension in self.extensions:
            if name := await self._run(deadline, extension.choose, seen, self.thread.engines):
                return request.model_copy(update={"model": name})
        return request

    @asynccontextmanager
    async def open(self, request: GenerationRequest, seen: ServedRequest) -> AsyncIterator[Ticket]:
        """Queue the answers to a request; those that are not finished at the end are given up.

        Raises:
            ApiError: the request is refused, or there is no room for it.
        """
        engine = self.find_engine(request.model)
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        channel, created = Channel(), time.monotonic()
        with self._reserve(request), self.metrics.open_requests.track_inprogress():
            scores = any(extension.needs_logprobs for extension in self.extensions)
            choices = await self._run(deadline, make_choices, engine, request, self.limits, scores)
            jobs = [Job(choice, channel, created) for choice in choices]
            prompts = {choice.index // request.n: len(choice.ids) for choice in choices}
            kind = "chatcmpl" if isinstance(request, ChatRequest) else "cmpl"
            id_, tokens = f"{kind}-{secrets.token_hex(12)}", sum(prompts.values())
            ticket = Ticket(id_, request.model, jobs, channel, tokens, deadline)
            self.metrics.prompt_tokens.labels(request.model).inc(ticket.prompt_tokens)
            self.thread.submit(request.model, jobs)
            try:
                yield ticket
            finally:
                for job in jobs:
                    if not job.is_finished:
                        job.cancel()
                        self.metrics.cancelled.labels(request.model).inc()
                for extension in self.extensions:
                    extension.observe(seen, ticket.to_answer())

    async def read_pieces(self, ticket: Ticket) -> AsyncIterator[Piece]:
        """Yield the pieces of all answers as they come.

        Raises:
            ApiError: the model failed, or the time is over.
        """
        left = len(ticket.jobs)
        while left:
            try:
                async with asyncio.timeout_at(ticket.deadline):
                    event = await ticket.channel.queue.get()
            except TimeoutError:
                raise self._too_slow() from None
            if isinstance(event, ApiError):
                raise event
            if event.finish_reason is not None:
                left -= 1
                self._finish(ticket, event)
            ticket.pieces.append(event)
            yield event

    # ----------------------------------------------------------------- parts

    @contextmanager
    def _reserve(self, request: GenerationRequest) -> Iterator[None]:
        """Keep places for the answers, from before encoding on, until the block ends."""
        model, count = request.model, len(request.prompts) * request.n
        if request.n > self.limits.choices:
            raise ApiError(400, f"n: at most {self.limits.choices} are possible", param="n")
        most = self.limits.slots + self.limits.queue
        if count > most:
            raise ApiError(400, f"more than {most} answers in one request", param="prompt")
        if self._reserved[model] + count > most:
            mean = sum(self._durations) / max(1, len(self._durations))
            seconds = str(max(1, math.ceil(min(mean, 60))))
            what = f"the queue is full: {self._reserved[model]} answers are being generated or wait"
            raise ApiError(503, what, code="queue_full", headers={"Retry-After": seconds})
        self._reserved[model] += count
        try:
            yield
        finally:
            self._reserved[model] -= count

    async def _run(self, deadline: float, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                return await loop.run_in_executor(self._encoder, function, *arguments)
        except TimeoutError:
            raise self._too_slow() from None

    def _finish(self, ticket: Ticket, piece: Piece) -> None:
        """Count a finished answer."""
        job = ticket.jobs[piece.index]
        job.is_finished = True
        ticket.completion_tokens += piece.tokens
        duration = time.monotonic() - job.created
        self._durations.append(duration)
        self.metrics.generated_tokens.labels(ticket.model).inc(piece.tokens)
        self.metrics.duration.labels(ticket.model).observe(duration)
        if job.first_token is not None:
            self.metrics.first_token.labels(ticket.model).observe(job.first_token - job.created)

    def _too_slow(self) -> ApiError:
        return ApiError(504, f"not answered within {self.limits.seconds:g} seconds", code="timeout")

    def _count_answers(self) -> Iterator[tuple[str, int, int]]:
        for name, engine in self.thread.engines.items():
            yield name, *engine.counts


def make_choices(
    engine: Engine, request: GenerationRequest, limits: Limits, scores: bool
) -> list[Choice]:
    """Return what the answers to a request are generated from; prompts are encoded.

    Raises:
        ApiError: the request does not suit the model or the limits.
    """
    wanted = request.most_tokens
    if wanted is not None and wanted > limits.new_tokens:
        what = f"max_tokens: at most {limits.new_tokens} are possible, got {wanted}"
        raise ApiError(400, what, param="max_tokens")
    seed = secrets.randbits(48) if request.seed is None else request.seed
    temperature = request.temperature if request.temperature >= GREEDY_BELOW else 0.0
    choices: list[Choice] = []
    unasked = 0 if scores and isinstance(engine, BatchedEngine) else None
    for prompt in request.prompts:
        ids = engine.encode(prompt, wanted or 0)
        max_tokens = _find_room(engine, len(ids), wanted, limits)
        for stream in range(request.n):
            choices.append(
                Choice(
                    index=len(choices),
                    prompt=prompt,  # type: ignore[arg-type]  # an engine refuses what it cannot take
                    ids=ids,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    top_p=request.top_p,
                    seed=seed,
                    stream=stream,
                    stop_words=request.stop_words,
                    num_top=unasked if request.num_top is None else request.num_top,
                    is_continuation=isinstance(request, CompletionRequest),
                    is_streamed=request.stream,
                )
            )
    engine.check(choices[0])
    return choices


def _find_room(engine: Engine, prompt: int, wanted: int | None, limits: Limits) -> int:
    """Return the largest number of tokens of an answer to a prompt of so many tokens."""
    if prompt > limits.prompt_tokens:
        what = f"the prompt has {prompt} tokens, at most {limits.prompt_tokens} are possible"
        raise ApiError(400, what, code="context_length_exceeded")
    room = limits.new_tokens if engine.context is None else engine.context - prompt
    if room < (wanted or 1):
        what = (
            f"the prompt has {prompt} tokens, so there is no room for {wanted or 1} more: "
            f"the model's context is {engine.context} tokens"
        )
        raise ApiError(400, what, code="context_length_exceeded")
    return wanted or min(room, limits.new_tokens)
