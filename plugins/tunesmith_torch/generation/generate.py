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

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tunesmith_torch.generation import prefix_attention, prefix_cache
from tunesmith_torch.generation.kv_cache import Slots
from tunesmith_torch.generation.merged_lora import folded
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.generation.sequences import Draft, Generated, Terms, choose
from tunesmith_torch.generation.transformers_generate import answer_upstream
from tunesmith_torch.options.generation_limits import MAX_ROWS, TOKEN_BUDGET
from tunesmith_torch.runtime.eval_mode import evaluating

ENOUGH, PADDED = 256, 1.1
"""Tokens of prompts that keep a processor busy, and how much padding more of them may cost."""


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
        Draft(index, prompt, [] if sampler is None else sampler.stream(index, limit))
        for index, prompt in enumerate(prompts_ids)
    ]
    terms = Terms(limit, end_ids, max(token_budget, 1), sampler, progress or (lambda _: None))
    with evaluating(model):
        try:
            base = prefix_cache.bare(model)
            if not prefix_cache.holds_plain_cache(base, max(map(len, prompts_ids)) + limit):
                raise prefix_attention.Unsupported("the cache is more than keys and values")
            with folded(model, limit * len(rows)):
                _run(base, rows, terms)
        except prefix_attention.Unsupported:
            answer_upstream(model, rows, terms)
    return [row.result(end_ids) for row in rows]


def _run(model: PreTrainedModel, rows: Sequence[Draft], terms: Terms) -> None:
    """Fill in the rows' answers. The longest prompts go first, equal ones together."""
    prompts = [row.prompt for row in rows]
    prefix = prefix_cache.shared_prefix(model, prompts, min(map(len, prompts)) - 1)
    slots = Slots(prefix)
    for row in rows:
        row.prompt = row.prompt[slots.shared :]
    waiting = deque(sorted(rows, key=lambda row: (-len(row.prompt), list(row.prompt), row.index)))
    name, live = prefix_cache.cache_argument(model), list[Draft]()
    tokens_B = torch.empty(0, dtype=torch.long, device=model.device)
    with prefix_attention.attending(model, prefix):
        while waiting or live:
            new = _admissible(waiting, live, terms)
            if new:
                logits_NV = torch.cat([_prefill(model, rows, slots) for rows in _alike(new)])
                live += new
            else:
                inputs = {name: slots, **slots.inputs()}
                logits_NV = model(input_ids=tokens_B[:, None], **inputs).logits[:, -1]
                slots.end += 1
                new, tokens_B = live, tokens_B[:0]
            tokens_B = torch.cat([tokens_B, choose(logits_NV, new, terms.sampler)])
            tokens_B = _evict(live, slots, tokens_B, terms)
            terms.progress(len(rows) - len(waiting) - len(live))


def _admissible(waiting: deque[Draft], live: Sequence[Draft], terms: Terms) -> list[Draft]:
    """Take the rows that may join now: as many as fit even if all answers grow to the limit.

    A few free places are left until there are enough of them, because running new prompts reads
    all weights too.
    """
    longest = max((len(row.prompt) for row in (*live, *list(waiting)[:1])), default=0)
    places = min(terms.budget // (longest + terms.limit), MAX_ROWS) - len(live)
    count = min(max(places, 0 if live else 1), len(waiting))
    if count < min(len(live) // 8 + 1, len(waiting)):
        return []
    return [waiting.popleft() for _ in range(count)]


def _alike(new: Sequence[Draft]) -> Iterator[Sequence[Draft]]:
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


def _prefill(model: PreTrainedModel, new: Sequence[Draft], slots: Slots) -> Tensor:
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
        attention_mask=prefix_attention.prefill_mask(
            longest, slots.shared, padding_B if any(padding) else None
        ),
        use_cache=True,
        logits_to_keep=1,
        **{prefix_cache.cache_argument(model): cache},
    ).logits[:, -1]
    slots.admit(cache, source, [len(row.prompt) for row in new])
    return logits_BV[torch.tensor(source, device=device)]


def _evict(live: list[Draft], slots: Slots, tokens_B: Tensor, terms: Terms) -> Tensor:
    """Let finished rows go; the tokens of those that stay, in their new order."""
    gone = [place for place, row in enumerate(live) if terms.finished(row)]
    if not gone:
        return tokens_B
    holes, movers = slots.drop(gone)
    for hole, mover in zip(holes, movers, strict=True):
        live[hole] = live[mover]
    tokens_B[holes] = tokens_B[movers]
    del live[slots.rows :]
    return tokens_B[: slots.rows]
