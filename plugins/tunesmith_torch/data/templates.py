"""Records to token ids, the same way in training, scoring and generation.

One rule carries this module: **what is trained is what is seen later**. For every answer in every
record, the ids of its example are ``prompt_ids(prompt) + answer_ids(prompt, answer)``, and
generation starts from the same ``prompt_ids``. So prompt and answer are tokenised apart, an
answer ends with the token that generation stops at, and control tokens come from the template
only, never from what people wrote.

Which tokens are trained is kept by position. Nothing here looks for padding or end tokens by id,
so it does no harm that many models pad with the token that ends an answer.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from tunesmith.contracts import LeftOut
from tunesmith.errors import DataError, UsageError
from tunesmith.records import Chat, Completion, Message, Preference, Prompt, Record, Text
from tunesmith_torch.data.chat_format import ChatFormat
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.tokenization import Encoder, Span
from tunesmith_torch.options.training import FitOptions

_BATCH = 1000
"""Rows rendered before they are tokenised together: enough for the tokenizer's own threads."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Records as examples, with an account of every record that did not fit."""

    examples: Sequence[Example]
    left_out: Sequence[LeftOut]
    """Records without an example, and why."""
    shortened: int = 0
    """Examples whose prompt lost its oldest part. Answers are never shortened."""
    divided: int = 0
    """Texts that were longer than an example may be and became several."""
    control: int = 0
    """Records in which somebody wrote a control token; it was kept as plain text."""

    @property
    def tokens(self) -> int:
        """Tokens of one pass, prompts included."""
        return sum(len(example.ids) for example in self.examples)

    @property
    def trained_tokens(self) -> int:
        """Those among them that carry loss."""
        return sum(int(np.count_nonzero(example.trained)) for example in self.examples)


@dataclass(frozen=True)
class Template:
    """A tokenizer and the form in which its model was taught to converse."""

    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder = field(repr=False)
    chat: ChatFormat | None = field(repr=False)
    """None: the model knows bare text only."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, override: str | None = None) -> Template:
        """The tokenizer's own chat template, or another one, which then travels with it.

        Raises:
            UsageError: the template cannot write an answer, or no token ends one.
        """
        if override is not None:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.chat_template = override
        encoder = Encoder.of(tokenizer)
        source = tokenizer.chat_template
        if isinstance(source, dict):
            source = source.get("default")
        chat = ChatFormat.of(encoder, source) if source else None
        if chat is None and tokenizer.eos_token_id is None:
            raise UsageError(
                "tokenizer: neither a chat template nor an EOS token, so no answer would ever end",
                hint="give a chat template with an end token",
            )
        return cls(tokenizer, encoder, chat)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: those that are trained to, and the tokenizer's EOS."""
        ids = {self.tokenizer.eos_token_id, self.chat.end_id if self.chat else None}
        return frozenset(int(i) for i in ids if i is not None)

    @property
    def sha256(self) -> str:
        """Fingerprint of the template's source."""
        return hashlib.sha256((self.chat.source if self.chat else "").encode()).hexdigest()

    # ----------------------------------------------------------------- prompts and answers

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """What the model is given."""
        return self.prompts_ids([prompt])[0]

    def answer_ids(self, prompt: Prompt, answer: str) -> list[int]:
        """What it is to say after that prompt, the end token included."""
        return self.exchanges_ids([prompt], [answer])[0][1]

    def prompts_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The ids of many prompts, tokenised together."""
        rows = self.encoder.encode([self._prompt_spans(prompt) for prompt in prompts])
        return [list(chain.from_iterable(row)) for row in rows]

    def exchanges_ids(
        self, prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> list[tuple[list[int], list[int]]]:
        """The ids of many prompts and of an answer to each, tokenised together."""
        pairs = [self._exchange_spans(p, a) for p, a in zip(prompts, answers, strict=True)]
        rows = self.encoder.encode([before + after for before, after in pairs])
        return [
            (
                list(chain.from_iterable(row[: len(before)])),
                list(chain.from_iterable(row[len(before) :])),
            )
            for row, (before, _) in zip(rows, pairs, strict=True)
        ]

    # ----------------------------------------------------------------- examples

    def example(self, record: Record, max_length: int) -> Sequence[Example]:
        """The record's examples.

        Raises:
            DataError: the record gives none; the cause is in the message.
        """
        made = self.examples_or_left_out([record], max_length)
        for problem in made.left_out:
            raise DataError(problem.where, f"{problem.cause}, {problem.detail}")
        return made.examples

    def examples_or_left_out(
        self, records: Iterable[Record], max_length: int, *, truncate_prompts: bool = False
    ) -> Examples:
        """Every record as examples of at most ``max_length``, or with the reason why not.

        A text that is too long becomes several examples, and all of it is learned. A conversation
        that is too long is left out, or, with ``truncate_prompts``, loses the oldest part of its
        prompt; the last answer always stays whole, because a cut answer teaches to stop short.
        """
        made = _Made()
        rows = iter(records)
        while batch := list(islice(rows, _BATCH)):
            lessons: list[tuple[Record, list[Span]]] = []
            for record in batch:
                try:
                    new = self._lessons(record)
                except DataError as error:
                    made.leave_out(record, error)
                else:
                    lessons += [(record, spans) for spans in new]
                    made.control += any(s.literal and self._is_control(s.text) for s in new[0])
            encoded = self.encoder.encode([spans for _, spans in lessons])
            for (record, spans), ids in zip(lessons, encoded, strict=True):
                self._fit(made, record, _example(spans, ids), max_length, truncate_prompts)
        return Examples(**vars(made))

    def _fit(
        self, made: _Made, record: Record, whole: Example, max_length: int, truncate_prompts: bool
    ) -> None:
        before = self.encoder.before
        if len(whole) <= max_length:
            made.examples.append(whole)
        elif isinstance(record, Text):
            made.examples += _divide(whole, max_length, len(before))
            made.divided += 1
        elif truncate_prompts and (rest := _shorten(whole, max_length, before)):
            made.examples.append(rest)
            made.shortened += 1
        else:
            detail = f"{len(whole)} tokens, {max_length} are allowed"
            cause = "row is too long"
            made.left_out.append(LeftOut(where=record.source, cause=cause, detail=detail))

    def _is_control(self, text: str) -> bool:
        return self.encoder.control.search(text) is not None

    # ----------------------------------------------------------------- spans

    def _lessons(self, record: Record) -> list[list[Span]]:
        match record:
            case Text():
                before, answer = self._exchange_spans("", record.text)
                return [before + answer]
            case Completion():
                messages: tuple[Message, ...] = (
                    Message("user", record.prompt),
                    Message("assistant", record.completion),
                )
            case Chat():
                messages = record.messages
            case Preference():
                messages = (*record.prompt, Message("assistant", record.chosen))
            case _:
                raise TypeError(f"no examples are known for {type(record).__name__}")
        if self.chat:
            return self.chat.lessons(messages)
        *prompt, answer_message = messages
        before, answer = self._exchange_spans(tuple(prompt), answer_message.content)
        return [before + answer]

    def _prompt_spans(self, prompt: Prompt) -> list[Span]:
        if isinstance(prompt, str):
            return self.encoder.bare(prompt)
        if self.chat:
            return self.chat.prompt(prompt)
        return self.encoder.bare(_only_question(prompt))

    def _exchange_spans(self, prompt: Prompt, answer: str) -> tuple[list[Span], list[Span]]:
        if self.chat and not isinstance(prompt, str):
            return self.chat.exchange(prompt, answer)
        before = self._prompt_spans(prompt)
        end = (int(self.tokenizer.eos_token_id),) if self.tokenizer.eos_token_id is not None else ()
        if prompt:
            return before, [Span(answer, trained=True, literal=True, then=end)]
        # An answer to nothing is the start of a text, so it is bare text itself.
        bos, text = self.encoder.bare(answer, trained=True)
        return [bos], [text._replace(then=end)]


@dataclass
class _Made:
    """What :class:`Examples` will hold, while it is being made."""

    examples: list[Example] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    shortened: int = 0
    divided: int = 0
    control: int = 0

    def leave_out(self, record: Record, error: DataError) -> None:
        """Note why a record gives no example."""
        cause, _, detail = error.message.removeprefix(f"{error.where}: ").partition(", ")
        self.left_out.append(LeftOut(where=record.source, cause=cause, detail=detail[:80]))


def _only_question(messages: Sequence[Message]) -> str:
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    roles = ", ".join(message.role for message in messages) or "no message"
    raise DataError(
        "conversation",
        f"the model has no chat template, so it takes one user message, got {roles}",
        hint="take the instruction-tuned variant of the model, or give a chat template",
    )


def _example(spans: Sequence[Span], ids: Sequence[Sequence[int]]) -> Example:
    lengths = [len(part) for part in ids]
    return Example(
        np.fromiter(chain.from_iterable(ids), np.int32, sum(lengths)),
        np.repeat(np.array([span.trained for span in spans], bool), lengths),
    )


def _divide(whole: Example, limit: int, before: int) -> Iterator[Example]:
    """A long text as several, each beginning as a text begins."""
    step = limit - before
    for start in range(before, len(whole), step):
        stop = start + step
        yield Example(
            np.r_[whole.ids[:before], whole.ids[start:stop]],
            np.r_[whole.trained[:before], whole.trained[start:stop]],
        )


def _shorten(whole: Example, limit: int, before: tuple[int, ...]) -> Example | None:
    """The newest part of a conversation, or None if the last answer leaves no room for any prompt.

    A BOS at the start is kept. An earlier answer that is cut in two is no longer trained.
    """
    ids, trained = np.asarray(whole.ids), np.asarray(whole.trained)
    keep = len(before) if tuple(ids[: len(before)]) == before else 0
    start = len(ids) - (limit - keep)
    untrained = np.flatnonzero(~trained)
    if start > untrained[-1]:
        return None
    rest = trained[start:].copy()
    if trained[start - 1]:
        rest[: untrained[untrained >= start][0] - start] = False
    return Example(np.r_[ids[:keep], ids[start:]], np.r_[trained[:keep], rest])


def template_override(options: FitOptions) -> str | None:
    """The chat template that the options name, or None for the model's own.

    Raises:
        UsageError: the file cannot be read.
    """
    if options.chat_template is None:
        return None
    try:
        return Path(options.chat_template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"technique.chat_template: cannot be read, {error}") from None
