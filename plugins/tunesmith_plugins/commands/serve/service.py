"""Check, encode and queue requests, and collect their answers, all in the event loop."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from tunesmith.records import Prompt
from tunesmith_cli.serving import ServedAnswer, ServedRequest
from tunesmith_evidence.review.policy import ReviewPolicy
from tunesmith_plugins.commands.serve.api_error import ApiError
from tunesmith_plugins.commands.serve.api_request import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from tunesmith_plugins.commands.serve.engine import BatchedEngine, Engine, Runners, make_engine
from tunesmith_plugins.commands.serve.extensions import Extension
from tunesmith_plugins.commands.serve.images import ReadImage, decode_images
from tunesmith_plugins.commands.serve.job import Channel, ChoiceInput, Job, Piece
from tunesmith_plugins.commands.serve.limits import Limits
from tunesmith_plugins.commands.serve.metrics import Metrics
from tunesmith_plugins.commands.serve.model_thread import ModelThread

R = TypeVar("R", bound=GenerationRequest)
T = TypeVar("T")
GREEDY_BELOW = 1e-3
"""Treat lower temperatures as 0, because dividing the logits by them would overflow."""


@dataclass(eq=False)
class OpenRequest:
    """A request whose answers are queued or being generated."""

    id: str
    model: str
    jobs: Sequence[Job]
    channel: Channel
    prompt_tokens: int
    deadline: float
    """Event loop time at which the request is canceled."""
    completion_tokens: int = 0
    """Number of tokens in the finished answers."""
    pieces: list[Piece] = field(default_factory=list)
    policy: ReviewPolicy | None = None
    """The rule that decides which answers a person must check, if the run chose one."""

    def to_answer(self) -> ServedAnswer:
        """Return the finished answer in the form that serve extensions receive."""
        choices = [[p for p in self.pieces if p.index == n] for n in range(len(self.jobs))]
        ends = [pieces[-1] if pieces else None for pieces in choices]
        return ServedAnswer(
            id=self.id,
            model=self.model,
            texts=tuple("".join(p.text for p in pieces) for pieces in choices),
            finish_reasons=tuple((end and end.finish_reason) or "unfinished" for end in ends),
            logprobs=tuple(tuple(s.token[1] for p in c for s in p.scores) for c in choices),
            confidences=tuple(self.confidence(end) if end else None for end in ends),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            seconds=time.monotonic() - self.jobs[0].created,
        )

    def confidence(self, piece: Piece) -> float | None:
        """Return the calibrated confidence of an answer, if its last piece has a score."""
        if self.policy is None or piece.score is None:
            return None
        return self.policy.confidence(piece.score)


class Service:
    """Answers requests with the models of a run."""

    def __init__(
        self,
        thread: ModelThread,
        limits: Limits,
        extensions: Sequence[Extension] = (),
        policies: Mapping[str, ReviewPolicy] | None = None,
        read_image: ReadImage | None = None,
        runners: Runners | None = None,
    ) -> None:
        """``read_image`` decodes the images in messages; None: the models read only text.

        ``runners`` are the engines of models that many adapters share.
        """
        self._read_image = read_image
        self.thread, self.limits, self.extensions = thread, limits, extensions
        self.policies = policies or {}
        self.created = int(time.time())
        self.metrics = Metrics(self._count_answers)
        # One worker, because a tokenizer is not thread-safe and a slow template must not delay
        # tokens.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="tunesmith-encode")
        self._runners: Runners = WeakKeyDictionary() if runners is None else runners
        self._reserved: Counter[str] = Counter()
        self._durations: deque[float] = deque(maxlen=32)
        for extension in extensions:
            extension.start(self.metrics)

    def close(self, seconds: float) -> None:
        """Stop encoding prompts, and wait at most this many seconds for each extension."""
        self._encoder.shutdown(wait=False, cancel_futures=True)
        for extension in self.extensions:
            extension.stop(seconds)

    def find_engine(self, model: str) -> Engine:
        """Return the engine that serves a model.

        Raises:
            ApiError: no model has this name.
        """
        if model not in self.thread.engines:
            known = ", ".join(self.thread.engines)
            what = f"model: there is no model of this name; available: {known}"
            raise ApiError(404, what, param="model", code="model_not_found")
        return self.thread.engines[model]

    async def change_models(self) -> None:
        """Add and remove the models that extensions change.

        Raises:
            ApiError: loading them takes too long.
        """
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        for extension in self.extensions:
            if extension.changes_models:
                await self._run(deadline, self._change_models, extension)

    def _change_models(self, extension: Extension) -> None:
        """Apply an extension's changes, in a worker: also if its request has timed out by then."""
        changed, slots = extension.change_models(self.thread.engines), self.limits.slots
        if changed:
            self.thread.change(
                {
                    name: None if model is None else make_engine(model, slots, self._runners)
                    for name, model in changed.items()
                }
            )

    async def choose(self, request: R, seen: ServedRequest) -> R:
        """Return the request for the model that an extension chooses, or the request unchanged.

        If the model is not served yet, the extensions may load it now.

        Raises:
            ApiError: an extension rejects the request, fails, or takes too long.
        """
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        for extension in self.extensions:
            if extension.chooses and (name := await self._run(deadline, extension.choose, seen)):
                if name not in self.thread.engines:
                    await self.change_models()
                extension.require_served(name, self.thread.engines)
                return request.model_copy(update={"model": name})
        return request

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, seen: ServedRequest
    ) -> AsyncIterator[OpenRequest]:
        """Queue the answers to a request, and cancel unfinished answers when the block ends.

        Raises:
            ApiError: the request is rejected, or the queue is full.
        """
        engine = self.find_engine(request.model)
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        channel, created = Channel(), time.monotonic()
        with self._reserve(request), self.metrics.open_requests.track_inprogress():
            is_chat = isinstance(request, ChatRequest)
            policy = self.policies.get(request.model) if is_chat else None
            choices = await self._run(
                deadline, self._make_choices, engine, request, policy is not None
            )
            jobs = [Job(choice, channel, created) for choice in choices]
            prompts = {choice.index // request.n: len(choice.ids) for choice in choices}
            kind = "chatcmpl" if is_chat else "cmpl"
            id_, tokens = f"{kind}-{secrets.token_hex(12)}", sum(prompts.values())
            ticket = OpenRequest(id_, request.model, jobs, channel, tokens, deadline, policy=policy)
            self.metrics.prompt_tokens.labels(request.model).inc(ticket.prompt_tokens)
            self.thread.submit(request.model, engine, jobs)
            try:
                yield ticket
            finally:
                for job in jobs:
                    if not job.is_finished:
                        job.cancel()
                        self.metrics.cancelled.labels(request.model).inc()
                for extension in self.extensions:
                    extension.observe(seen, ticket.to_answer())

    async def read_pieces(self, ticket: OpenRequest) -> AsyncIterator[Piece]:
        """Yield the pieces of all answers as they arrive.

        Raises:
            ApiError: the model failed, or the time limit passed.
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
        """Reserve queue places for the answers, until the block ends."""
        model, count = request.model, len(request.prompts) * request.n
        if request.n > self.limits.choices:
            raise ApiError(400, f"n: must be at most {self.limits.choices}", param="n")
        most = self.limits.slots + self.limits.queue
        if count > most:
            raise ApiError(400, f"a request can ask for at most {most} answers", param="prompt")
        if self._reserved[model] + count > most:
            mean = sum(self._durations) / max(1, len(self._durations))
            seconds = str(max(1, math.ceil(min(mean, 60))))
            what = f"the queue is full; answers running or waiting: {self._reserved[model]}"
            raise ApiError(503, what, code="queue_full", headers={"Retry-After": seconds})
        self._reserved[model] += count
        try:
            yield
        finally:
            self._reserved[model] -= count

    def _make_choices(
        self, engine: Engine, request: GenerationRequest, reviewed: bool
    ) -> list[ChoiceInput]:
        """Decode the images of a request, and return the input of each answer, in a worker."""
        read, most = self._read_image, self.limits.images
        prompts = [decode_images(prompt, read, most) for prompt in request.prompts]
        scores = any(extension.needs_logprobs for extension in self.extensions)
        return make_choices(engine, request, prompts, self.limits, scores, reviewed)

    async def _run(self, deadline: float, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                return await loop.run_in_executor(self._encoder, function, *arguments)
        except TimeoutError:
            raise self._too_slow() from None

    def _finish(self, ticket: OpenRequest, piece: Piece) -> None:
        """Record a finished answer in the metrics."""
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
        return ApiError(504, f"no answer within {self.limits.seconds:g} seconds", code="timeout")

    def _count_answers(self) -> Iterator[tuple[str, int, int]]:
        for name, engine in self.thread.engines.items():
            yield name, *engine.counts


def make_choices(
    engine: Engine,
    request: GenerationRequest,
    prompts: Sequence[Prompt | tuple[int, ...]],
    limits: Limits,
    scores: bool,
    reviewed: bool,
) -> list[ChoiceInput]:
    """Encode the prompts of a request, and return the input of each answer.

    If answers are ``reviewed``, score greedy answers. The run has not evaluated other answers.

    Raises:
        ApiError: the request does not fit the model or the limits.
    """
    wanted = request.most_tokens
    if wanted is not None and wanted > limits.new_tokens:
        what = f"max_tokens: must be at most {limits.new_tokens}, got {wanted}"
        raise ApiError(400, what, param="max_tokens")
    seed = secrets.randbits(48) if request.seed is None else request.seed
    temperature = request.temperature if request.temperature >= GREEDY_BELOW else 0.0
    choices: list[ChoiceInput] = []
    unasked = 0 if scores and isinstance(engine.runner, BatchedEngine) else None
    for prompt in prompts:
        ids = engine.encode(prompt, wanted or 0)
        max_tokens = _find_room(engine, len(ids), wanted, limits)
        for stream in range(request.n):
            choices.append(
                ChoiceInput(
                    index=len(choices),
                    prompt=prompt,  # type: ignore[arg-type]  # engines refuse unsupported prompts
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
                    is_scored=reviewed and not (temperature or request.stop_words),
                )
            )
    engine.check(choices[0])
    return choices


def _find_room(engine: Engine, prompt: int, wanted: int | None, limits: Limits) -> int:
    """Return the maximum number of answer tokens after a prompt with this many tokens."""
    if prompt > limits.prompt_tokens:
        what = f"the prompt has {prompt} tokens; the limit is {limits.prompt_tokens}"
        raise ApiError(400, what, code="context_length_exceeded")
    room = limits.new_tokens if engine.context is None else engine.context - prompt
    if room < (wanted or 1):
        what = (
            f"the prompt has {prompt} tokens, which leaves no room for {wanted or 1} more in the "
            f"model's context of {engine.context} tokens"
        )
        raise ApiError(400, what, code="context_length_exceeded")
    return wanted or min(room, limits.new_tokens)
