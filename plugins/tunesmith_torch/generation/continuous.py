"""Generate for requests that arrive at any time, one step of a running batch at a time.

Shapes: B rows, T tokens, N rows with new logits, V vocabulary.

:func:`tunesmith_torch.generation.generate.generate` has all prompts from the start. A server does
not, so here the caller runs the steps, and adds and cancels sequences between them::

    batch.add(a)    step     step     batch.add(b)    step     step     a.cancel()    step

                    a a      a                        b b      a b                    b

A step computes either the prompts of sequences that join, or one token of each running sequence.
The two kinds of steps take turns, so neither waits long. A sequence joins if the batch still fits
when all sequences reach their limits. Sequences join in order of arrival, so none waits forever.

Each sequence has its own limit, sampler and random numbers, and rows do not attend to each other. A
prompt therefore gets the same completion as alone, also if each row has its own adapter
(:mod:`tunesmith_torch.generation.row_adapters`). Models that do not support this cache
(:mod:`tunesmith_torch.generation.cache_check`) generate one sequence after another, each in a
single step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith_torch.generation import prefix_attention, prefix_cache
from tunesmith_torch.generation.cache_check import can_use_cached_attention
from tunesmith_torch.generation.generate import generate, group_by_length, remove_rows
from tunesmith_torch.generation.kv_cache import DecodingCache
from tunesmith_torch.generation.merged_lora import merged_adapters
from tunesmith_torch.generation.prefill import decode_rows, prefill
from tunesmith_torch.generation.row_adapters import use_row_adapters
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.generation.sequences import PartialSequence, append_next_tokens
from tunesmith_torch.kernels.rotary_lengths import length_classes, reset_rotary_state
from tunesmith_torch.options.generation_limits import MAX_ROWS, TOKEN_BUDGET
from tunesmith_torch.runtime.eval_mode import eval_mode

__all__ = ["ContinuousBatch", "RunningSequence", "TokenLogprobs"]

MAX_JOINING_TOKENS = 2_048
"""Maximum number of prompt tokens in a step, because running sequences wait for it.

A longer prompt joins alone.
"""
_UNLIMITED = 1 << 62


class TokenLogprobs(NamedTuple):
    """A token's log-probability in nats, before temperature, and the most likely tokens."""

    logprob: float
    top: tuple[tuple[int, float], ...]
    """Ids and log-probabilities of the most likely tokens, most likely first."""


@dataclass(slots=True, kw_only=True)
class RunningSequence(PartialSequence):
    """A sequence to generate, with its own settings; each step appends to its :attr:`ids`."""

    index: int = 0
    """Number of the sequence's random stream in the sampler."""
    uniforms: list[float] = field(default_factory=list)
    """One random number in [0, 1) per token to generate, from the sampler; empty if greedy."""
    max_new_tokens: int
    """Maximum number of tokens to generate."""
    sampler: Sampler | None = None
    """The sampler; None: greedy decoding."""
    num_top: int | None = None
    """Number of most likely tokens to record for each token; None: record no log-probabilities."""
    scores: list[TokenLogprobs] = field(default_factory=list)
    """Log-probabilities of :attr:`ids`, if they are recorded."""
    has_ended: bool = False
    """True if an end token was generated or the caller ended the sequence."""
    is_cancelled: bool = False
    """True if the caller does not need the result: the sequence is removed before the next step."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: must be at least 1, got {self.max_new_tokens}")
        if not self.prompt:
            raise ValueError("a prompt needs at least one token")
        if self.sampler is not None:
            self.uniforms = self.sampler.uniforms(self.index, self.max_new_tokens)

    @property
    def is_finished(self) -> bool:
        """True if no further tokens will be generated."""
        return self.has_ended or self.is_cancelled or len(self.ids) >= self.max_new_tokens

    @property
    def most_tokens(self) -> int:
        """Maximum number of tokens in the prompt and its completion together."""
        return len(self.prompt) + self.max_new_tokens

    def end(self) -> None:
        """End the sequence after its last token, for example at a stop word."""
        self.has_ended = True

    def cancel(self) -> None:
        """Cancel the sequence; its row is freed before the next step."""
        self.is_cancelled = True


class ContinuousBatch:
    """A running batch: the sequences that a model is generating, and those that wait to join.

    Use it as a context manager in a single thread. Inside, the model is in eval mode, and its
    adapters are merged if :func:`merged_adapters` supports them.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        end_ids: frozenset[int],
        token_budget: int = TOKEN_BUDGET,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self.end_ids, self.token_budget, self.max_rows = end_ids, token_budget, max_rows
        self._model = model
        self._waiting: deque[RunningSequence] = deque()
        self._active: list[RunningSequence] = []
        self._cache = DecodingCache(None)
        self._tokens_B = torch.empty(0, dtype=torch.long)
        self._has_joined = False
        self._can_batch_length: dict[int, bool] = {}
        self._is_open = False
        self._stack, self._attention = ExitStack(), ExitStack()

    def __enter__(self) -> ContinuousBatch:
        self._stack.enter_context(eval_mode(self._model))
        self._stack.callback(self._attention.close)
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()
        self._stack.close()

    @property
    def num_running(self) -> int:
        """Number of sequences that have a row."""
        return len(self._active)

    @property
    def num_waiting(self) -> int:
        """Number of sequences that wait for a row."""
        return len(self._waiting)

    @property
    def is_empty(self) -> bool:
        """True if no sequences are running or waiting."""
        return not (self._active or self._waiting)

    def add(self, sequence: RunningSequence) -> None:
        """Add a sequence; it joins in a later step."""
        self._waiting.append(sequence)

    def clear(self) -> list[RunningSequence]:
        """Drop all sequences, for example after an error; free their memory and return them."""
        left = [*self._active, *self._waiting]
        self._active, self._waiting = [], deque()
        self._reset_cache()
        self._attention.close()
        return left

    @torch.inference_mode()
    def step(self) -> list[RunningSequence]:
        """Generate the next token of each running sequence, or the first token of joining ones.

        After an error, call :meth:`clear`, because the state of the other sequences is unknown.

        Returns:
            The sequences that got a token. A model that cannot batch finishes one whole sequence.
        """
        self._drop_finished()
        if self._waiting and not self._can_batch(self._waiting[0]):
            if self._active:  # it must run alone, so it waits for these
                return self._decode()
            return self._generate_alone(self._waiting[0])
        joining = [] if self._has_joined and self._active else self._take_joining()
        if joining:
            return self._join(joining)
        return self._decode() if self._active else []

    # ----------------------------------------------------------------- one step

    def _join(self, joining: list[RunningSequence]) -> list[RunningSequence]:
        self._active += joining
        base, groups = self._open(), group_by_length(joining)
        logits_NV = torch.cat(
            [
                prefill(base, [r.prompt for r in group], self._cache, [r.adapter for r in group])
                for group in groups
            ]
        )
        next_N = self._append(logits_NV, joining)
        self._tokens_B = torch.cat([self._tokens_B.to(next_N.device), next_N])
        self._has_joined = True
        return joining

    def _decode(self) -> list[RunningSequence]:
        running = list(self._active)
        limit = running[0].max_new_tokens - len(running[0].ids) - 1
        logits_BV = decode_rows(self._open(), running, self._tokens_B, self._cache, limit)
        self._tokens_B = self._append(logits_BV, running)
        self._has_joined = False
        return running

    def _append(self, logits_NV: Tensor, rows: Sequence[RunningSequence]) -> Tensor:
        """Choose the next token of each row and return these tokens, shape N.

        Rows with equal settings are sampled together, which does not change their results.
        """
        found = {_settings_of(row) for row in rows}
        if len(found) == 1:
            next_N = append_next_tokens(logits_NV, rows, rows[0].sampler)
        else:
            next_N = logits_NV.new_empty(len(rows), dtype=torch.long)
            for settings in found:
                indices = [i for i, row in enumerate(rows) if _settings_of(row) == settings]
                chosen = [rows[i] for i in indices]
                next_N[indices] = append_next_tokens(logits_NV[indices], chosen, chosen[0].sampler)
        _record_scores(logits_NV, rows)
        for row in rows:
            row.has_ended = row.has_ended or row.ids[-1] in self.end_ids
        return next_N

    def _drop_finished(self) -> None:
        """Remove the rows that are finished or canceled."""
        self._waiting = deque(row for row in self._waiting if not row.is_cancelled)
        finished = [index for index, row in enumerate(self._active) if row.is_finished]
        self._tokens_B = remove_rows(self._active, self._cache, self._tokens_B, finished)
        if finished and not self._active:
            self._reset_cache()

    def _take_joining(self) -> list[RunningSequence]:
        """Take the sequences that may join now, longest prompt first."""
        joining: list[RunningSequence] = []
        longest = max((row.most_tokens for row in self._active), default=0)
        tokens = 0
        while self._waiting and self._can_batch(self._waiting[0]):
            candidate = self._waiting[0]
            rows = len(self._active) + len(joining) + 1
            longest = max(longest, candidate.most_tokens)
            tokens += len(candidate.prompt)
            if rows > 1 and (rows > self.max_rows or rows * longest > self.token_budget):
                break
            if joining and tokens > MAX_JOINING_TOKENS:
                break
            joining.append(self._waiting.popleft())
        return sorted(joining, key=lambda row: -len(row.prompt))

    # ----------------------------------------------------------------- the model

    def _open(self) -> PreTrainedModel:
        """Return the model inside its adapter wrapper, prepared for this cache."""
        base = prefix_cache.unwrap_model(self._model)
        if not self._is_open:
            self._attention.enter_context(merged_adapters(self._model, _UNLIMITED))
            self._attention.enter_context(prefix_attention.use_cached_attention(base))
            self._attention.callback(self._mark_closed)
            self._is_open = True
        return base

    def _mark_closed(self) -> None:
        self._is_open = False

    def _can_batch(self, row: RunningSequence) -> bool:
        """Return True if the sequence can share steps with others."""
        length = row.most_tokens
        if length not in self._can_batch_length:
            self._can_batch_length[length] = self._find_can_batch(length)
        return self._can_batch_length[length]

    def _find_can_batch(self, length: int) -> bool:
        try:
            base = prefix_cache.unwrap_model(self._model)
        except prefix_attention.UnsupportedModel:
            return False
        # A longer row would impose its rotary factors on all rows of the step.
        is_short = length_classes(self._model).class_of(length) == 0
        return is_short and can_use_cached_attention(base, length)

    def _generate_alone(self, row: RunningSequence) -> list[RunningSequence]:
        """Generate a whole sequence, with transformers' own loop if ours does not support it."""
        self._attention.close()
        constraint = row.constraint
        with use_row_adapters([row.adapter]):
            (answer,) = generate(
                self._model,
                [row.prompt],
                max_new_tokens=row.max_new_tokens,
                end_ids=self.end_ids,
                token_budget=self.token_budget,
                sampler=_alone_sampler(row),
                constrain=None if constraint is None else lambda: constraint,
            )
            row.ids += answer.ids
            row.has_ended = answer.finish_reason == "stop"
            if row.num_top is not None:
                ids_1T = torch.tensor([[*row.prompt, *row.ids]], device=_device(self._model))
                logits_TV: Tensor = self._model(input_ids=ids_1T, use_cache=False).logits[0]
                reset_rotary_state(self._model)
                row.scores += _scores(logits_TV[-len(row.ids) - 1 : -1], row.ids, row.num_top)
        self._waiting.popleft()
        return [row]

    def _reset_cache(self) -> None:
        """Free the memory of the cache, whose size follows the longest row."""
        self._cache = DecodingCache(None)
        self._tokens_B = torch.empty(0, dtype=torch.long)
        self._has_joined = False


def _settings_of(row: RunningSequence) -> tuple[float, float] | None:
    return None if row.sampler is None else (row.sampler.temperature, row.sampler.top_p)


def _alone_sampler(row: RunningSequence) -> Sampler | None:
    """Return a sampler whose row 0 uses the random numbers of the sequence."""
    sampler = row.sampler
    if sampler is None:
        return None
    stream = row.index if sampler.streams is None else sampler.streams[row.index]
    return Sampler(
        temperature=sampler.temperature, top_p=sampler.top_p, seed=sampler.seed, streams=(stream,)
    )


def _record_scores(logits_NV: Tensor, rows: Sequence[RunningSequence]) -> None:
    """Record the log-probabilities of the last tokens for the rows that ask for them."""
    for index, row in enumerate(rows):
        if row.num_top is not None:
            row.scores += _scores(logits_NV[index : index + 1], row.ids[-1:], row.num_top)


def _scores(logits_NV: Tensor, ids: Sequence[int], num_top: int) -> Iterator[TokenLogprobs]:
    """Yield the log-probability of each token, with the ``num_top`` most likely tokens."""
    logp_NV = logits_NV.float().log_softmax(-1)
    top = logp_NV.topk(num_top, dim=-1)
    for row, (token, top_ids, top_logprobs) in enumerate(
        zip(ids, top.indices.tolist(), top.values.tolist(), strict=True)
    ):
        pairs = tuple(zip(top_ids, top_logprobs, strict=True))
        yield TokenLogprobs(float(logp_NV[row, token]), pairs)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
