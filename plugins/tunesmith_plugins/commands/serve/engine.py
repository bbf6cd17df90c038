"""Run generation jobs, with continuous batching or by calling a model for one job at a time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from tunesmith.contracts import TextModel, require_sampling
from tunesmith.errors import DataError, UsageError
from tunesmith.records import Prompt
from tunesmith_evidence.review.scores import NEVER, score_answers, score_logprob
from tunesmith_plugins.commands.serve.api_error import ApiError
from tunesmith_plugins.commands.serve.job import (
    ChoiceInput,
    Job,
    Piece,
    Scored,
    StreamedText,
    TokenScore,
)
from tunesmith_plugins.commands.serve.partial_answer import decode_partial_answer
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.adapted_model import AdaptedModel
from tunesmith_torch.generation.continuous import ContinuousBatch, RunningSequence, TokenLogprobs
from tunesmith_torch.generation.row_adapters import RowAdapter
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.generation.text_model import TorchTextModel

NUM_SEEDS = 2**32
"""Number of different seeds that are passed to models with their own sampling."""


class Engine(Protocol):
    """Takes the generation jobs of one model. Only :meth:`add` is for the model thread."""

    context: int | None = None
    """Maximum number of tokens in prompt and answer together, or None if unknown or unlimited."""

    @property
    def runner(self) -> Runner:
        """The engine that runs the jobs, and maybe those of others."""
        ...

    def encode(self, prompt: Prompt | tuple[int, ...], most_tokens: int) -> tuple[int, ...]:
        """Return the token ids of a prompt, or an empty tuple if the model takes prompts as text.

        Raises:
            ApiError: the prompt is not valid for the model.
        """
        ...

    def check(self, choice: ChoiceInput) -> None:
        """Raise an error if the model does not support a request.

        Raises:
            ApiError: the model does not support an option of the request.
        """
        return

    def add(self, job: Job) -> None:
        """Add a job to the queue of the runner."""
        ...

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of running jobs and of waiting jobs."""
        ...


class Runner(Engine, Protocol):
    """An engine that runs jobs, in the model thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()

    @property
    def runner(self) -> Runner:
        """The engine itself."""
        return self

    @property
    def is_empty(self) -> bool:
        """True if no job is running or waiting."""
        ...

    def step(self) -> Sequence[tuple[Job, Piece]]:
        """Compute one step, and return the new pieces of answers."""
        ...

    def clear(self) -> Sequence[Job]:
        """Drop all jobs, and return them."""
        ...


@dataclass(eq=False)
class _Running:
    """A job, its sequence in the batch, and the text decoded so far."""

    job: Job
    sequence: RunningSequence
    text: StreamedText
    num_sent: int = 0
    """Number of token scores that have been sent."""


class BatchedEngine(Runner):
    """Runs jobs with continuous batching: they join and leave the batch between steps."""

    def __init__(
        self,
        model: TorchTextModel,
        *,
        slots: int,
        build_prompt: Callable[[Prompt, int], Prompt] | None = None,
    ) -> None:
        self._template = model.template
        # The event loop's thread encodes while this thread decodes, so each needs a tokenizer.
        self._decoding: Template = model.template.copy()
        self._build_prompt = build_prompt or (lambda prompt, _: prompt)
        self._vocabulary = model.model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
        self.context = model.context
        self._batch = ContinuousBatch(
            model.model,
            end_ids=model.template.end_ids,
            token_budget=model.token_budget,
            max_rows=slots,
        )
        self._running: dict[int, _Running] = {}

    def __enter__(self) -> Self:
        self._batch.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._batch.__exit__(*error)

    def encode(self, prompt: Prompt | tuple[int, ...], most_tokens: int) -> tuple[int, ...]:
        """Return the token ids of a prompt."""
        if isinstance(prompt, tuple) and prompt and isinstance(prompt[0], int):
            ids: tuple[int, ...] = prompt  # type: ignore[assignment]
            if not all(0 <= token < self._vocabulary for token in ids):
                raise ApiError(
                    400, "prompt: a token id is outside the model's vocabulary", param="prompt"
                )
            return ids
        try:
            built = self._build_prompt(prompt, most_tokens)  # type: ignore[arg-type]
            found = tuple(self._template.encode_prompt(built))
        except DataError as error:
            raise ApiError(400, str(error)) from None
        if not found:
            raise ApiError(400, "prompt: contains no tokens", param="prompt")
        return found

    def add(self, job: Job, adapter: RowAdapter | None = None) -> None:
        """Add a job. It joins the batch when a slot is free."""
        choice = job.choice
        sampler = None
        if choice.temperature > 0:
            sampler = Sampler(
                temperature=choice.temperature,
                top_p=choice.top_p,
                seed=choice.seed,
                streams=(choice.stream,),
            )
        sequence = RunningSequence(
            choice.ids,
            max_new_tokens=choice.max_tokens,
            sampler=sampler,
            num_top=0 if choice.is_scored and choice.num_top is None else choice.num_top,
            adapter=adapter,
        )
        decode = self._continue_text(choice) if choice.is_continuation else self._decode_answer
        text = StreamedText(decode, choice.stop_words)
        self._running[id(sequence)] = _Running(job, sequence, text)
        self._batch.add(sequence)

    @property
    def is_empty(self) -> bool:
        """True if no job is running or waiting."""
        return self._batch.is_empty

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of running jobs and of waiting jobs."""
        waiting = self._batch.num_waiting
        return max(0, len(self._running) - waiting), waiting

    def count_jobs(self, adapter: RowAdapter) -> tuple[int, int]:
        """Return the numbers of running and of waiting jobs with an adapter."""
        own = [r.sequence for r in [*self._running.values()] if r.sequence.adapter is adapter]
        running = sum(bool(sequence.ids) for sequence in own)
        return running, len(own) - running

    def step(self) -> Sequence[tuple[Job, Piece]]:
        """Compute one step, and return the new pieces of answers."""
        for running in [r for r in self._running.values() if r.job.is_cancelled]:
            running.sequence.cancel()
            del self._running[id(running.sequence)]
        pieces = []
        for sequence in self._batch.step():
            running = self._running[id(sequence)]
            if piece := self._advance(running):
                pieces.append((running.job, piece))
            if sequence.is_finished:
                del self._running[id(sequence)]
        return pieces

    def clear(self) -> Sequence[Job]:
        """Drop all jobs, and return them."""
        self._batch.clear()
        left = [running.job for running in self._running.values()]
        self._running.clear()
        return left

    # ----------------------------------------------------------------- answers

    def _advance(self, running: _Running) -> Piece | None:
        """Return the piece that the newest token completes, or None. End it at a stop word."""
        job, sequence, text = running.job, running.sequence, running.text
        if job.first_token is None:
            job.first_token = time.monotonic()
        is_at_end = sequence.ids[-1] in self._batch.end_ids
        ids = sequence.ids[:-1] if is_at_end else sequence.ids
        new = text.update(ids, sequence.is_finished)
        if text.is_stopped:
            sequence.end()
        choice, finished = job.choice, sequence.is_finished
        if not finished and not (choice.is_streamed and new):
            return None
        # Tokens after a stop word are known only once the stop word is complete.
        has_scores = finished or not choice.stop_words
        scores = self._new_scores(running, ids) if has_scores else ()
        reason = score = None
        if finished:
            reason = "stop" if is_at_end or text.is_stopped else "length"
            new = new if choice.is_streamed else text.sent
        if finished and choice.is_scored:
            logprob = math.fsum(token.logprob for token in sequence.scores)
            score = score_logprob(logprob) if reason == "stop" else NEVER
        return Piece(choice.index, new, scores, reason, len(sequence.ids), score)  # type: ignore[arg-type]

    def _new_scores(self, running: _Running, ids: Sequence[int]) -> tuple[TokenScore, ...]:
        """Return the scores of the text's tokens that have not been sent yet."""
        if running.job.choice.num_top is None:
            return ()
        count = len(ids)
        if running.text.is_stopped:
            kept, decode = len(running.text.sent), self._decoding.tokenizer.decode
            while count and len(decode(ids[: count - 1])) >= kept:
                count -= 1
        scores = running.sequence.scores[running.num_sent : count]
        tokens, running.num_sent = ids[running.num_sent : count], count
        return tuple(self._name(token, score) for token, score in zip(tokens, scores, strict=True))

    def _name(self, token: int, score: TokenLogprobs) -> TokenScore:
        def named(token: int, logprob: float) -> Scored:
            return str(self._decoding.tokenizer.decode([token])), logprob

        return TokenScore(
            named(token, score.logprob), tuple(named(*candidate) for candidate in score.top)
        )

    def _decode_answer(self, ids: Sequence[int], is_complete: bool) -> str:
        if is_complete:
            return self._decoding.decode_answer(ids)
        return decode_partial_answer(self._decoding, ids)

    def _continue_text(self, choice: ChoiceInput) -> Callable[[Sequence[int], bool], str]:
        """Return a function that decodes the continuation of a text.

        The function starts at the last token of the prompt, because tokenizers drop a leading
        space.
        """
        decode = self._decoding.tokenizer.decode
        last = list(choice.ids[-1:])
        start = len(decode(last, skip_special_tokens=True, clean_up_tokenization_spaces=False))

        def text_of(ids: Sequence[int], is_complete: bool) -> str:
            text: str = decode(
                [*last, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )[start:]
            return text if is_complete else text.rstrip("\ufffd")

        return text_of


class AdapterEngine(Engine):
    """Runs the jobs of one adapter in a batch with the jobs of a model's other adapters."""

    def __init__(self, runner: BatchedEngine, adapter: RowAdapter) -> None:
        self._runner, self._adapter = runner, adapter
        self.context = runner.context

    @property
    def runner(self) -> BatchedEngine:
        """The engine with the batch."""
        return self._runner

    def encode(self, prompt: Prompt | tuple[int, ...], most_tokens: int) -> tuple[int, ...]:
        """Return the token ids of a prompt."""
        return self._runner.encode(prompt, most_tokens)

    def add(self, job: Job) -> None:
        """Add a job to the batch."""
        self._runner.add(job, self._adapter)

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of this adapter's running jobs and waiting jobs."""
        return self._runner.count_jobs(self._adapter)


class CallingEngine(Runner):
    """Runs jobs by calling a text model for one answer at a time.

    This engine can serve any model, such as the classifier that won a run.
    """

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self._waiting: deque[Job] = deque()

    def encode(self, prompt: Prompt | tuple[int, ...], most_tokens: int) -> tuple[int, ...]:
        """Return no token ids, because the model encodes prompts itself."""
        if isinstance(prompt, tuple) and prompt and isinstance(prompt[0], int):
            raise ApiError(400, "prompt: this model does not accept token ids", param="prompt")
        return ()

    def check(self, choice: ChoiceInput) -> None:
        """Reject options that the model does not support."""
        if choice.num_top is not None:
            raise ApiError(
                400, "logprobs: this model does not compute log-probabilities", param="logprobs"
            )
        if choice.temperature > 0 and choice.top_p < 1:
            raise ApiError(
                400, "top_p: this model does not support sampling with top_p", param="top_p"
            )

    def add(self, job: Job) -> None:
        """Add a job to the queue of this engine."""
        self._waiting.append(job)

    @property
    def is_empty(self) -> bool:
        """True if no job is waiting."""
        return not self._waiting

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of running jobs and of waiting jobs."""
        return min(1, len(self._waiting)), max(0, len(self._waiting) - 1)

    def step(self) -> Sequence[tuple[Job, Piece]]:
        """Compute the first answer in the queue, and return it as one piece."""
        job, choice = self._waiting[0], self._waiting[0].choice
        if job.is_cancelled:
            self._waiting.popleft()
            return []
        if choice.temperature > 0:
            (answer,) = require_sampling(self._model).sample(
                [choice.prompt],
                choice.max_tokens,
                seed=(choice.seed * 1_000_003 + choice.stream) % NUM_SEEDS,
                temperature=choice.temperature,
            )
        else:
            (answer,) = self._model.generate([choice.prompt], choice.max_tokens)
        job.first_token = time.monotonic()
        text = StreamedText(lambda *_: answer.text, choice.stop_words)
        new = text.update(answer.ids, True)
        reason = "stop" if text.is_stopped else answer.finish_reason
        score = None
        if choice.is_scored:
            (score,) = score_answers(self._model, [choice.prompt], [answer])
        self._waiting.popleft()
        return [(job, Piece(choice.index, new, (), reason, answer.tokens, score))]

    def clear(self) -> Sequence[Job]:
        """Drop all jobs, and return them."""
        left = list(self._waiting)
        self._waiting.clear()
        return left


Runners = MutableMapping[TorchTextModel, BatchedEngine]
"""The engines of models that many adapters share."""


def make_engine(model: TextModel, slots: int, runners: Runners) -> Engine:
    """Return the engine that serves a model, with continuous batching if the model supports it."""
    if isinstance(model, AdaptedModel):
        if model.model not in runners:
            runners[model.model] = BatchedEngine(model.model, slots=slots)
        return AdapterEngine(runners[model.model], model.adapter)
    if isinstance(model, TorchTextModel):
        return BatchedEngine(model, slots=slots)
    return CallingEngine(model)


def to_api_error(error: Exception) -> ApiError:
    """Convert an error in the model thread to the error that the client sees."""
    if isinstance(error, UsageError | DataError):
        return ApiError(400, str(error))
    return ApiError(500, "the model failed; see the server's output")
