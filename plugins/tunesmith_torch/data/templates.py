"""Encode records as token ids, in the same way for training, scoring and generation.

The rule of this module: **the trained ids are the ids seen at inference**. For every answer in
every record, the ids of its example are ``encode_prompt(prompt) + encode_answer(prompt, answer)``,
and generation starts from the same ``encode_prompt``. Therefore prompt and answer are tokenized
separately, an answer ends with the token at which generation stops, and control tokens come from
the template only, never from text that people wrote.

Trained tokens are marked by position. No code searches for padding or end tokens by id, so models
that pad with the token that ends an answer need no exception.
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
from tunesmith.records import Answer, Chat, Completion, Message, Preference, Prompt, Record, Text
from tunesmith_torch.data.chat_format import ChatFormat
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.tokenization import SpanEncoder, TextSpan
from tunesmith_torch.options.training import TrainingOptions

_RECORDS_PER_CALL = 1000
"""Records that are tokenized in one call: enough to use the tokenizer's own threads."""


@dataclass(frozen=True, kw_only=True)
class TokenizedRecords:
    """The examples of some records, with an account of every record that did not fit."""

    examples: Sequence[Example]
    left_out: Sequence[LeftOut]
    """Records without an example, and the reason for each."""
    truncated: int = 0
    """Number of examples whose prompt lost its oldest part. Answers are never truncated."""
    split_texts: int = 0
    """Number of texts that were longer than an example may be and became several."""
    with_control_tokens: int = 0
    """Number of records whose text spells a control token; it was encoded as plain text."""

    @property
    def tokens(self) -> int:
        """Tokens in one pass over the examples, prompts included."""
        return sum(len(example.ids) for example in self.examples)

    @property
    def trained_tokens(self) -> int:
        """Tokens that contribute to the loss in one pass over the examples."""
        return sum(int(np.count_nonzero(example.trained)) for example in self.examples)


@dataclass(frozen=True)
class Template:
    """A tokenizer and the chat format of its model."""

    tokenizer: PreTrainedTokenizerBase
    encoder: SpanEncoder = field(repr=False)
    chat: ChatFormat | None = field(repr=False)
    """None: the model has no chat template and takes plain text only."""

    @classmethod
    def from_tokenizer(
        cls, tokenizer: PreTrainedTokenizerBase, override: str | None = None
    ) -> Template:
        """Return a template for the tokenizer's own chat template, or for the one in ``override``.

        An override is stored in a copy of the tokenizer, so it is saved with the model.

        Raises:
            UsageError: the template cannot render an answer, or no token ends one.
        """
        if override is not None:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.chat_template = override
        encoder = SpanEncoder.from_tokenizer(tokenizer)
        source = tokenizer.chat_template
        if isinstance(source, dict):
            source = source.get("default")
        chat = ChatFormat.from_template(encoder, source) if source else None
        if chat is None and tokenizer.eos_token_id is None:
            raise UsageError(
                "tokenizer: no chat template and no EOS token, so generation would never stop",
                hint="set technique.chat_template to a file with a template that has an end token",
            )
        return cls(tokenizer, encoder, chat)

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids of the tokens that end an answer: the trained end token and the tokenizer's EOS."""
        ids = {self.tokenizer.eos_token_id, self.chat.end_id if self.chat else None}
        return frozenset(int(i) for i in ids if i is not None)

    @property
    def sha256(self) -> str:
        """SHA-256 of the template's source."""
        return hashlib.sha256((self.chat.source if self.chat else "").encode()).hexdigest()

    # ----------------------------------------------------------------- prompts and answers

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the ids that the model is given."""
        return self.encode_prompts([prompt])[0]

    def encode_answer(self, prompt: Prompt, answer: str) -> list[int]:
        """Return the ids of an answer to the prompt, the end token included."""
        return self.encode_exchanges([prompt], [answer])[0][1]

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the ids of many prompts, tokenized together."""
        rows = self.encoder.encode([self._prompt_spans(prompt) for prompt in prompts])
        return [list(chain.from_iterable(row)) for row in rows]

    def encode_exchanges(
        self, prompts: Sequence[Prompt], answers: Sequence[Answer]
    ) -> list[tuple[list[int], list[int]]]:
        """Return the ids of many prompts and of one answer to each, tokenized together."""
        texts = [a if isinstance(a, str) else _with_inline_reasoning(a).text for a in answers]
        pairs = [self._exchange_spans(p, a) for p, a in zip(prompts, texts, strict=True)]
        rows = self.encoder.encode([before + after for before, after in pairs])
        return [
            (
                list(chain.from_iterable(row[: len(before)])),
                list(chain.from_iterable(row[len(before) :])),
            )
            for row, (before, _) in zip(rows, pairs, strict=True)
        ]

    # ----------------------------------------------------------------- examples

    def tokenize_record(self, record: Record, max_length: int) -> Sequence[Example]:
        """Return the record's examples.

        Raises:
            DataError: the record gives no example; the message contains the cause.
        """
        tokenized = self.tokenize_records([record], max_length)
        for problem in tokenized.left_out:
            raise DataError(problem.where, f"{problem.cause}, {problem.detail}")
        return tokenized.examples

    def tokenize_records(
        self, records: Iterable[Record], max_length: int, *, truncate_prompts: bool = False
    ) -> TokenizedRecords:
        """Return the records as examples of at most ``max_length`` tokens, and those left out.

        A text that is too long is split into several examples; no part of it is lost. A
        conversation that is too long is left out, or, with ``truncate_prompts``, loses the oldest
        part of its prompt. The last answer is always kept complete, because a truncated answer
        teaches the model to stop too early.
        """
        builder = _TokenizedRecordsBuilder()
        rows = iter(records)
        while batch := list(islice(rows, _RECORDS_PER_CALL)):
            pending: list[tuple[Record, list[TextSpan]]] = []
            for record in batch:
                try:
                    spans_of_examples = self._spans_of_record(record)
                except DataError as error:
                    builder.leave_out(record, error)
                else:
                    pending += [(record, spans) for spans in spans_of_examples]
                    builder.with_control_tokens += any(
                        s.literal and self._is_control(s.text) for s in spans_of_examples[0]
                    )
            encoded = self.encoder.encode([spans for _, spans in pending])
            for (record, spans), ids in zip(pending, encoded, strict=True):
                self._add_example(
                    builder, record, _build_example(spans, ids), max_length, truncate_prompts
                )
        return TokenizedRecords(**vars(builder))

    def _add_example(
        self,
        builder: _TokenizedRecordsBuilder,
        record: Record,
        example: Example,
        max_length: int,
        truncate_prompts: bool,
    ) -> None:
        bos_ids = self.encoder.bos_ids
        if len(example) <= max_length:
            builder.examples.append(example)
        elif isinstance(record, Text):
            builder.examples += _split_text(example, max_length, len(bos_ids))
            builder.split_texts += 1
        elif truncate_prompts and (truncated := _truncate_prompt(example, max_length, bos_ids)):
            builder.examples.append(truncated)
            builder.truncated += 1
        else:
            detail = f"{len(example)} tokens, {max_length} are allowed"
            cause = "row is too long"
            builder.left_out.append(LeftOut(where=record.source, cause=cause, detail=detail))

    def _is_control(self, text: str) -> bool:
        return self.encoder.control_pattern.search(text) is not None

    # ----------------------------------------------------------------- spans

    def _spans_of_record(self, record: Record) -> list[list[TextSpan]]:
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
                messages = tuple(map(_with_inline_reasoning, record.messages))
            case Preference():
                messages = (*record.prompt, Message("assistant", record.chosen))
            case _:
                raise TypeError(f"no examples are known for {type(record).__name__}")
        if self.chat:
            return self.chat.training_examples(messages)
        *prompt, answer_message = messages
        before, answer = self._exchange_spans(tuple(prompt), answer_message.text)
        return [before + answer]

    def _prompt_spans(self, prompt: Prompt) -> list[TextSpan]:
        if isinstance(prompt, str):
            return self.encoder.plain_text_spans(prompt)
        prompt = tuple(map(_with_inline_reasoning, prompt))
        if self.chat:
            return self.chat.prompt_spans(prompt)
        return self.encoder.plain_text_spans(_single_user_message(prompt))

    def _exchange_spans(self, prompt: Prompt, answer: str) -> tuple[list[TextSpan], list[TextSpan]]:
        if self.chat and not isinstance(prompt, str):
            return self.chat.exchange_spans(tuple(map(_with_inline_reasoning, prompt)), answer)
        before = self._prompt_spans(prompt)
        end = (int(self.tokenizer.eos_token_id),) if self.tokenizer.eos_token_id is not None else ()
        if prompt:
            return before, [TextSpan(answer, trained=True, literal=True, following_ids=end)]
        # Without a prompt the answer is the start of a text, so it gets the BOS itself.
        bos, text = self.encoder.plain_text_spans(answer, trained=True)
        return [bos], [text._replace(following_ids=end)]


@dataclass
class _TokenizedRecordsBuilder:
    """The fields of :class:`TokenizedRecords` while records are being tokenized."""

    examples: list[Example] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    truncated: int = 0
    split_texts: int = 0
    with_control_tokens: int = 0

    def leave_out(self, record: Record, error: DataError) -> None:
        """Record the reason why a record gives no example."""
        cause, _, detail = error.message.removeprefix(f"{error.where}: ").partition(", ")
        self.left_out.append(LeftOut(where=record.source, cause=cause, detail=detail[:80]))


def _with_inline_reasoning(message: Message) -> Message:
    """Return the message with its reasoning in the text, between the usual marks."""
    if not message.reasoning:
        return message
    return Message(message.role, f"<think>\n{message.reasoning}\n</think>\n\n{message.text}")


def _single_user_message(messages: Sequence[Message]) -> str:
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].text
    roles = ", ".join(message.role for message in messages) or "no message"
    raise DataError(
        "conversation",
        f"the model has no chat template, so it takes one user message, got {roles}",
        hint="use the instruction-tuned variant of the model, or set technique.chat_template",
    )


def _build_example(spans: Sequence[TextSpan], ids: Sequence[Sequence[int]]) -> Example:
    lengths = [len(part) for part in ids]
    return Example(
        np.fromiter(chain.from_iterable(ids), np.int32, sum(lengths)),
        np.repeat(np.array([span.trained for span in spans], bool), lengths),
    )


def _split_text(example: Example, limit: int, bos_length: int) -> Iterator[Example]:
    """Yield the parts of a long text, each with the BOS of a complete text in front."""
    step = limit - bos_length
    for start in range(bos_length, len(example), step):
        stop = start + step
        yield Example(
            np.r_[example.ids[:bos_length], example.ids[start:stop]],
            np.r_[example.trained[:bos_length], example.trained[start:stop]],
        )


def _truncate_prompt(example: Example, limit: int, bos_ids: tuple[int, ...]) -> Example | None:
    """Return the newest part of a conversation, or None if no token of its prompt would remain.

    A BOS at the start is kept. An earlier answer that is cut in two is no longer trained.
    """
    ids, trained = np.asarray(example.ids), np.asarray(example.trained)
    bos_length = len(bos_ids) if tuple(ids[: len(bos_ids)]) == bos_ids else 0
    start = len(ids) - (limit - bos_length)
    untrained = np.flatnonzero(~trained)
    if start > untrained[-1]:
        return None
    kept_trained = trained[start:].copy()
    if trained[start - 1]:
        kept_trained[: untrained[untrained >= start][0] - start] = False
    return Example(np.r_[ids[:bos_length], ids[start:]], np.r_[trained[:bos_length], kept_trained])


def read_chat_template(options: TrainingOptions) -> str | None:
    """Return the chat template in the file that the options name, or None for the model's own.

    Raises:
        UsageError: the file cannot be read.
    """
    if options.chat_template is None:
        return None
    try:
        return Path(options.chat_template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"technique.chat_template: cannot be read, {error}") from None
