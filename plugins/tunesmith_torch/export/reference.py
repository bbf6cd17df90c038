"""The prompts, answers and probabilities of the trained model, which an export must reproduce.

Shapes: N scored positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from tunesmith.contracts import Generation
from tunesmith.errors import UsageError
from tunesmith.records import Message, Prompt, Record, last_exchange
from tunesmith_torch.data.templates import Template
from tunesmith_torch.export.context_limits import ContextLimit, find_context_limits
from tunesmith_torch.generation.text_model import TorchTextModel

__all__ = ["render_prompt"]

MAX_ROWS = 8
"""Maximum number of test rows to score."""
MAX_SCORED_TOKENS = 24
"""Maximum number of scored tokens per answer."""
ANSWERS_AT_ONCE = 4
"""Number of prompts answered together, starting with the shortest completions."""
MAX_ANSWERS = 12
"""Maximum number of prompts to try until an answer ends."""
MAX_ANSWER_TOKENS = 128
"""Maximum number of generated tokens per answer."""
MAX_ROW_TOKENS = 1024
"""Maximum number of tokens of a prompt with its scored answer."""
MAX_CUT_CHARACTERS = 300
"""Maximum number of characters of a message that replaces a longer prompt."""
MAX_LONG_TOKENS = 1152
"""Maximum number of tokens of the long text, which can exceed a window of 1024 tokens."""
TOKENS_AFTER_LIMIT = 64
"""Number of tokens of the long text beyond the limit."""
HARD_TEXTS = (
    "Grüße! 12345 3.14 \u00bd \U0001f642 \u4f60\u597d, don't  stop",
    "a\tb\n\nc   d 007 1,000,000 x==y",
)
"""Prompts that tokenizers split differently: digits, other scripts, whitespace, punctuation."""
Exchange: TypeAlias = tuple[Prompt, Message]
SYSTEM = Message("system", "Answer in one word.")


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt with its rendered text and its token ids in training."""

    kind: str
    """``prompt``, or ``system prompt`` if it starts with a system message."""
    prompt: Prompt
    text: str
    ids: list[int]
    """Token ids of ``text``."""


@dataclass(frozen=True)
class ScoredRow:
    """A row with the trained model's log-probabilities."""

    prompt: Prompt
    ids: list[int]
    """Token ids of the prompt and the answer, without the last token."""
    first: int
    """Position of the prompt's last token, which predicts the first scored token."""
    answer_ids: list[int]
    """Token ids of the scored answer."""
    logprobs: Any
    """Log-probabilities of the next token after each scored position, [N, V]."""


@dataclass(frozen=True)
class Reference:
    """Everything that an export must reproduce."""

    prompts: list[RenderedPrompt]
    rows: list[ScoredRow]
    answers: list[tuple[Prompt, Generation]]
    """Greedy answers. At least one has ended, unless the model ended none of its answers."""
    bos_id: int | None
    """Id of the BOS token; None if the tokenizer has none."""
    bos: str
    """Text of the BOS token; empty if the tokenizer has none."""
    limits: Sequence[ContextLimit] = ()
    """Text lengths beyond which the model computes differently."""
    long_row: ScoredRow | None = None
    """A text that exceeds as many limits as possible; None if no limit can be exceeded."""

    @classmethod
    def observe(cls, model: nn.Module, template: Template, records: Sequence[Record]) -> Reference:
        """Return what the trained model computes for test rows, in its own dtype."""
        device = next(model.parameters()).device
        text_model = TorchTextModel(model, template, device)
        rows = score_rows(text_model, records)
        asked = [row.prompt for row in rows]
        limits = find_context_limits(getattr(model, "config", None))
        return cls(
            prompts=list(_render_prompts(template, asked)),
            rows=rows,
            answers=_answer_until_one_ends(text_model, records),
            bos_id=template.tokenizer.bos_token_id,
            bos=template.tokenizer.bos_token or "",
            limits=limits,
            long_row=_score_long_row(text_model, rows, limits),
        )


def is_text_only(prompt: Prompt) -> bool:
    """Return True if a prompt has only text, which every engine supports."""
    return isinstance(prompt, str) or all(
        isinstance(m.content, str) and not m.tools and not m.tool_calls and m.role != "tool"
        for m in prompt
    )


def score_rows(model: TorchTextModel, records: Sequence[Record]) -> list[ScoredRow]:
    """Return up to ``MAX_ROWS`` rows that an engine can score, with the model's log-probabilities.

    If all rows have tools or are too long, the users' last messages are scored alone.

    Raises:
        UsageError: no rows can be scored.
    """
    for exchanges in (_plain_exchanges(records), _last_messages(records)):
        rows = list(islice(_score_exchanges(model, exchanges), MAX_ROWS))
        if rows:
            return rows
    raise UsageError(
        "no test rows can be compared: none has a user prompt and an answer as text",
        hint="add test rows with a user prompt and a text answer; an export is verified on them",
    )


def _plain_exchanges(records: Sequence[Record]) -> Iterator[Exchange]:
    for prompt, answer in map(last_exchange, records):
        if prompt and is_text_only(prompt):
            yield prompt, answer


def _last_messages(records: Sequence[Record]) -> Iterator[Exchange]:
    """Yield the end of each row's last user message as a prompt, with its answer's text."""
    for prompt, answer in map(last_exchange, records):
        messages = [Message("user", prompt)] if isinstance(prompt, str) else prompt
        texts = [m.text for m in messages if m.role == "user" and m.text.strip()]
        if texts and answer.text.strip():
            message = Message("user", texts[-1][-MAX_CUT_CHARACTERS:])
            yield (message,), Message("assistant", answer.text)


def _score_exchanges(model: TorchTextModel, exchanges: Iterable[Exchange]) -> Iterator[ScoredRow]:
    for prompt, answer in exchanges:
        ((before, after),) = model.template.encode_exchanges([prompt], [answer])
        after = after[:MAX_SCORED_TOKENS]
        if not before or not after or len(before) + MAX_SCORED_TOKENS > _most_tokens(model):
            continue
        yield _score_row(model, prompt, [*before, *after[:-1]], after)


def _most_tokens(model: TorchTextModel) -> int:
    """Return the maximum length of a prompt with its answer, limited by the model's context."""
    return min(MAX_ROW_TOKENS, model.context or MAX_ROW_TOKENS)


def _score_row(
    model: TorchTextModel, prompt: Prompt, ids: list[int], answer_ids: list[int]
) -> ScoredRow:
    """Return the log-probabilities at the last positions of ``ids``, one per answer token."""
    first = len(ids) - len(answer_ids)
    with torch.inference_mode():
        logits_TV = model.model(torch.tensor([ids], device=model.device), use_cache=False)
        logprobs_NV = logits_TV.logits[0, first:].double().log_softmax(-1).cpu().numpy()
    return ScoredRow(prompt, ids, first, answer_ids, logprobs_NV.astype(np.float32))


def _score_long_row(
    model: TorchTextModel, rows: Sequence[ScoredRow], limits: Sequence[ContextLimit]
) -> ScoredRow | None:
    """Return the rows as one text, repeated until it exceeds every limit that it can exceed."""
    passed = [limit.tokens for limit in limits if can_exceed_limit(limit)]
    if not passed or not rows:
        return None
    text = chain.from_iterable(row.ids for row in cycle(rows))
    *ids, last = islice(text, max(passed) + TOKENS_AFTER_LIMIT + 1)
    return _score_row(model, "", ids, [*ids[1 - MAX_SCORED_TOKENS :], last])


def can_exceed_limit(limit: ContextLimit) -> bool:
    """Return True if a text beyond this limit can be compared."""
    return limit.tokens + TOKENS_AFTER_LIMIT <= min(MAX_LONG_TOKENS, limit.context)


def _answer_until_one_ends(
    model: TorchTextModel, records: Sequence[Record]
) -> list[tuple[Prompt, Generation]]:
    """Return greedy answers, shortest completions first, until one of them ends."""
    answers: list[tuple[Prompt, Generation]] = []
    asked = _choose_short_answers(model, records)[:MAX_ANSWERS]
    for start in range(0, len(asked), ANSWERS_AT_ONCE):
        prompts = asked[start : start + ANSWERS_AT_ONCE]
        answers += zip(prompts, model.generate(prompts, MAX_ANSWER_TOKENS), strict=True)
        if any(answer.finish_reason == "stop" for _, answer in answers):
            break
    return answers


def _choose_short_answers(model: TorchTextModel, records: Sequence[Record]) -> list[Prompt]:
    """Return the prompts that an engine can answer, shortest completions first."""
    for list_exchanges in (_plain_exchanges, _last_messages):
        exchanges = list(list_exchanges(records))
        prompts, answers = [p for p, _ in exchanges], [a for _, a in exchanges]
        encoded = model.template.encode_exchanges(prompts, answers)
        lengths = [
            (len(after), prompt)
            for (prompt, _), (before, after) in zip(exchanges, encoded, strict=True)
            if before and len(before) + MAX_ANSWER_TOKENS <= _most_tokens(model)
        ]
        if lengths:
            return [prompt for _, prompt in sorted(lengths, key=lambda pair: pair[0])]
    return []


def _render_prompts(template: Template, asked: Sequence[Prompt]) -> Iterator[RenderedPrompt]:
    hard = [(Message("user", text),) for text in HARD_TEXTS]
    for prompt in [*asked, *hard]:
        yield RenderedPrompt(
            "prompt", prompt, render_prompt(template, prompt), template.encode_prompt(prompt)
        )
    if template.chat is None:
        return
    for prompt in ((SYSTEM, Message("user", text)) for text in HARD_TEXTS):
        try:
            text = render_prompt(template, prompt)
        except Exception:  # a template can make jinja raise any exception
            return  # the model does not support a system prompt
        yield RenderedPrompt("system prompt", prompt, text, template.encode_prompt(prompt))


def render_prompt(template: Template, prompt: Prompt) -> str:
    """Return a prompt, rendered by transformers with the saved template."""
    if isinstance(prompt, str):
        return prompt
    if template.chat is None:
        return prompt[0].text
    text: str = template.tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.text} for message in prompt],
        tokenize=False,
        add_generation_prompt=True,
    )
    return text
