"""Answers, token by token, for many prompts at once.

Shapes: B rows, T tokens of the longest new prompt, N rows with new logits, V vocabulary.

What costs time in generation is reading every weight once for each step, so the loop keeps as many
rows in a step as the token budget allows: a row that ends leaves at once, and waiting prompts take
its place. The tokens that all prompts begin with are run once and stored once, and a prompt that is
asked for several times is run once for the samples that enter together.

Rows do not see each other and each draws from a random stream of its own, so an answer does not
depend on which other prompts were asked, or in which order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from tunesmith_torch import cached_attention
from tunesmith_torch.budget import MAX_ROWS, TOKEN_BUDGET
from tunesmith_torch.folding import folded
from tunesmith_torch.kvcache import Slots, evaluating
from tunesmith_torch.sampling import Sampler

ENOUGH, PADDED = 256, 1.1
"""Tokens of prompts that keep a processor busy, and how much padding more of them may cost."""
SHORTEST_PREFIX = 8
"""A shared beginning of fewer tokens is not worth a run of its own."""


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer."""

    ids: tuple[int, ...]
    """The token that ended it is the last one."""
    stopped: Literal["end", "limit"]
    logprobs: tuple[float, ...]
    """Of each token, in nats, under the tempered distribution before ``top_p``; empty if greedy."""


@dataclass(slots=True)
class _Row:
    """An answer in the making."""

    index: int
    prompt: Sequence[int]
    """Without the shared beginning."""
    uniforms: list[float]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def result(self, end_ids: frozenset[int]) -> Generated:
        stopped: Literal["end", "limit"] = "end" if self.ids[-1] in end_ids else "limit"
        return Generated(tuple(self.ids), stopped, tuple(self.logprobs))


@torch.inference_mode()
def generate(  # noqa: PLR0913 - each is independent of the others, and all but two are named
    model: torch.nn.Module,
    prompts_ids: Sequence[Sequence[int]],
    *,
    limit: int,
    end_ids: frozenset[int],
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int], None] | None = None,
    sampler: Sampler | None = None,
) -> list[Generated]:
    """Continue every prompt by at most ``limit`` tokens, or until one of ``end_ids``.

    Returns:
        The answers in the order of the prompts. Nothing of the model's ``generation_config``
        applies: without a sampler the most likely token is taken, and nothing is penalised.

    Raises:
        ValueError: a prompt without tokens, or a limit below one.
    """
    if limit < 1:
        raise ValueError(f"limit: must be at least 1, got {limit}")
    if not prompts_ids:
        return []
    if not all(prompts_ids):
        raise ValueError("a prompt needs at least one token")
    rows = [
        _Row(index, prompt, [] if sampler is None else sampler.stream(index, limit))
        for index, prompt in enumerate(prompts_ids)
    ]
    job = _Job(limit, end_ids, max(token_budget, 1), sampler, progress or (lambda _: None))
    with evaluating(model):
        try:
            base = cached_attention.bare(model)
            if not cached_attention.holds_plain_cache(base, max(map(len, prompts_ids)) + limit):
                raise cached_attention.Unsupported("the cache is more than keys and values")
            with folded(model, limit * len(rows)):
                _run(base, rows, job)
        except cached_attention.Unsupported:
            _run_upstream(model, rows, job)
    return [row.result(end_ids) for row in rows]


@dataclass(frozen=True)
class _Job:
    """What does not change while the loop runs."""

    limit: int
    end_ids: frozenset[int]
    budget: int
    sampler: Sampler | None
    progress: Callable[[int], None]

    def finished(self, row: _Row) -> bool:
        return row.ids[-1] in self.end_ids or len(row.ids) == self.limit


# --------------------------------------------------------------------------- the loop


def _run(model: PreTrainedModel, rows: Sequence[_Row], job: _Job) -> None:
    """Fill in the rows' answers. The longest prompts go first, equal ones together."""
    prompts = [row.prompt for row in rows]
    shared = cached_attention.shared_length(prompts, min(map(len, prompts)) - 1)
    shared = shared if shared >= SHORTEST_PREFIX and len(rows) > 1 else 0
    prefix = cached_attention.read_prefix(model, prompts[0][:shared])
    for row in rows:
        row.prompt = row.prompt[shared:]
    waiting = deque(sorted(rows, key=lambda row: (-len(row.prompt), list(row.prompt), row.index)))
    name, slots, live = cached_attention.cache_argument(model), Slots(prefix), list[_Row]()
    tokens_B = torch.empty(0, dtype=torch.long, device=model.device)
    with cached_attention.attending(model, prefix):
        while waiting or live:
            new = _admissible(waiting, live, job)
            if new:
                logits_NV = torch.cat([_prefill(model, rows, slots) for rows in _alike(new)])
                live += new
            else:
                inputs = {name: slots, **slots.inputs()}
                logits_NV = model(input_ids=tokens_B[:, None], **inputs).logits[:, -1]
                slots.end += 1
                new, tokens_B = live, tokens_B[:0]
            tokens_B = torch.cat([tokens_B, _choose(logits_NV, new, job.sampler)])
            tokens_B = _evict(live, slots, tokens_B, job)
            job.progress(len(rows) - len(waiting) - len(live))


def _admissible(waiting: deque[_Row], live: Sequence[_Row], job: _Job) -> list[_Row]:
    """Take the rows that may join now: as many as fit even if all answers grow to the limit.

    A few free places are left until there are enough of them, because running new prompts reads
    all weights too.
    """
    longest = max((len(row.prompt) for row in (*live, *list(waiting)[:1])), default=0)
    places = min(job.budget // (longest + job.limit), MAX_ROWS) - len(live)
    count = min(max(places, 0 if live else 1), len(waiting))
    if count < min(len(live) // 8 + 1, len(waiting)):
        return []
    return [waiting.popleft() for _ in range(count)]


def _alike(new: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    """New rows, longest first, in runs that cost little padding; equal prompts stay together."""
    start, spent, distinct = 0, 0, set[tuple[int, ...]]()
    for place, row in enumerate(new):
        prompt = tuple(row.prompt)
        if prompt in distinct:
            continue
        padded = len(new[start].prompt) * (len(distinct) + 1)
        if spent >= ENOUGH and padded > (spent + len(prompt)) * PADDED:
            yield new[start:place]
            start, spent, distinct = place, 0, set()
        distinct.add(prompt)
        spent += len(prompt)
    yield new[start:]


def _prefill(model: PreTrainedModel, new: Sequence[_Row], slots: Slots) -> Tensor:
    """Run the prompts of new rows, each different one once; the logits after each row's last."""
    number: dict[tuple[int, ...], int] = {}
    source = [number.setdefault(tuple(row.prompt), len(number)) for row in new]
    longest = max(map(len, number))
    padding = [longest - len(prompt) for prompt in number]
    device = model.device
    ids_BT = torch.tensor(
        [[0] * pad + list(prompt) for pad, prompt in zip(padding, number, strict=True)],
        device=device,
    )
    padding_B = torch.tensor(padding, device=device)
    position_BT = torch.arange(longest, device=device) - padding_B[:, None]
    cache = DynamicCache()
    logits_BV: Tensor = model(
        input_ids=ids_BT,
        position_ids=slots.shared + position_BT.clamp_(min=0),
        attention_mask=cached_attention.prefill_mask(
            longest, slots.shared, padding_B if any(padding) else None
        ),
        use_cache=True,
        logits_to_keep=1,
        **{cached_attention.cache_argument(model): cache},
    ).logits[:, -1]
    slots.admit(cache, source, [len(row.prompt) for row in new])
    return logits_BV[torch.tensor(source, device=device)]


def _evict(live: list[_Row], slots: Slots, tokens_B: Tensor, job: _Job) -> Tensor:
    """Let finished rows go; the tokens of those that stay, in their new order."""
    gone = [place for place, row in enumerate(live) if job.finished(row)]
    if not gone:
        return tokens_B
    holes, movers = slots.drop(gone)
    for hole, mover in zip(holes, movers, strict=True):
        live[hole] = live[mover]
    tokens_B[holes] = tokens_B[movers]
    del live[slots.rows :]
    return tokens_B[: slots.rows]


# --------------------------------------------------------------------------- the next token


def _choose(logits_NV: Tensor, rows: Sequence[_Row], sampler: Sampler | None) -> Tensor:
    """Decide each row's next token and write it down."""
    if sampler is None:
        chosen_N = logits_NV.argmax(-1)
    else:
        uniforms = [row.uniforms[len(row.ids)] for row in rows]
        chosen_N, logprob_N = sampler.draw(logits_NV, uniforms)
        for row, logprob in zip(rows, logprob_N.tolist(), strict=True):
            row.logprobs.append(logprob)
    for row, token in zip(rows, chosen_N.tolist(), strict=True):
        row.ids.append(token)
    return chosen_N


# --------------------------------------------------------------------------- other models


class _Chooser(LogitsProcessor):  # type: ignore[misc]  # transformers comes without types
    """Lets ``_choose`` decide inside of transformers' loop, which then finds one token possible."""

    def __init__(self, rows: Sequence[_Row], job: _Job) -> None:
        self.rows, self.job = rows, job

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        open_rows = [i for i, row in enumerate(self.rows) if not row.ids or not self._done(row)]
        rows = [self.rows[i] for i in open_rows]
        chosen_N = _choose(scores[open_rows], rows, self.job.sampler)
        forced_BV = torch.zeros_like(scores)
        forced_BV[open_rows, chosen_N] = 1.0
        return forced_BV

    def _done(self, row: _Row) -> bool:
        return self.job.finished(row)


def _run_upstream(model: torch.nn.Module, rows: Sequence[_Row], job: _Job) -> None:
    """The same answers through transformers' own loop, for models whose memory is their own affair.

    Only prompts of one length share a batch: not every such model ignores padding.
    """
    waiting = deque(sorted(rows, key=lambda row: (-len(row.prompt), row.index)))
    finished = 0
    while waiting:
        length = len(waiting[0].prompt)
        most = min(max(job.budget // (length + job.limit), 1), MAX_ROWS)
        batch: list[_Row] = []
        while waiting and len(batch) < most and len(waiting[0].prompt) == length:
            batch.append(waiting.popleft())
        _ask_upstream(model, batch, job)
        finished += len(batch)
        job.progress(finished)


def _ask_upstream(model: Any, batch: Sequence[_Row], job: _Job) -> None:
    ids_BT = torch.tensor([list(row.prompt) for row in batch], device=model.device)
    ends = sorted(job.end_ids)
    neutral = GenerationConfig(
        max_new_tokens=job.limit,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    model.generate(
        ids_BT,
        attention_mask=torch.ones_like(ids_BT),
        generation_config=neutral,
        logits_processor=LogitsProcessorList([_Chooser(batch, job)]),
    )
