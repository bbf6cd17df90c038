"""Encode records as token ids, in the same way for training, scoring and generation.

The rule of this module: **the trained ids are the ids seen at inference**. For every answer in
every record, the ids of its example are ``encode_prompt(prompt) + encode_answer(prompt, answer)``,
and generation starts from the same ``encode_prompt``. Therefore

- the prompt and the answer are tokenized separately;
- an answer ends with the token at which generation stops;
- control tokens come only from the template, never from text that people wrote.

Tokens to train on are marked by position. No code searches for padding or end tokens by id, so
models whose padding token also ends an answer need no special case.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunesmith.contracts import SkippedRow
from tunesmith.errors import DataError, UsageError
from tunesmith.records import (
    Answer,
    Chat,
    Completion,
    Message,
    Preference,
    Prompt,
    Record,
    Text,
    last_exchange,
)
from tunesmith_torch.data.chat_format import ChatFormat, Exchange
from tunesmith_torch.data.conversation import RenderedConversation, TemplateLimitError
from tunesmith_torch.data.example_store import ExampleStoreBuilder
from tunesmith_torch.data.message_fields import parse_answer, unpaired_to_chat
from tunesmith_torch.data.named_templates import NAMED_TEMPLATES, named_template
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.refusals import NO_ANSWER
from tunesmith_torch.data.tokenization import SpanEncoder, TextSpan, list_control_tokens
from tunesmith_torch.data.tokenized_records import (
    TokenizedRecords,
    TokenizedRecordsBuilder,
    build_skipped_row,
    join_exchanges,
)
from tunesmith_torch.options.training import TEMPLATE_DATE, TrainingOptions
from tunesmith_torch.untrusted.template_renderer import (
    RENDERER,
    TemplateRenderer,
    TemplateSource,
)

__all__ = ["Template"]

_RECORDS_PER_CALL = 1000
"""Number of records tokenized in one call, enough to keep the tokenizer's threads busy."""


@dataclass(frozen=True)
class Template:
    """A tokenizer and the chat format of its model."""

    tokenizer: PreTrainedTokenizerBase
    encoder: SpanEncoder = field(repr=False)
    chat: ChatFormat | None = field(repr=False)
    """The chat format; None if the model has no chat template and takes only plain text."""

    @classmethod
    def from_options(cls, tokenizer: PreTrainedTokenizerBase, options: TrainingOptions) -> Template:
        """Return the template that the options select.

        Raises:
            UsageError: the template file cannot be read, or :meth:`from_tokenizer` raises it.
        """
        return cls.from_tokenizer(
            tokenizer,
            read_chat_template(options, tokenizer),
            date=options.chat_template.today,
            kwargs=options.chat_template.kwargs,
        )

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        override: str | None = None,
        *,
        date: date = TEMPLATE_DATE,
        kwargs: Mapping[str, Any] | None = None,
        renderer: TemplateRenderer = RENDERER,
    ) -> Template:
        """Return a template for the tokenizer's chat template, or for the one in ``override``.

        ``date`` is the date that a template prints as today; ``kwargs`` sets its variables. The
        override and the variables are stored in a copy of the tokenizer and saved with the model,
        so other software renders the same prompts.

        Raises:
            UsageError: the template cannot render an answer, no token ends an answer, or the
                template runs too long or prints too much.
        """
        source = tokenizer.chat_template if override is None else override
        if isinstance(source, dict):
            source = source.get("default")
        if source and kwargs:
            source = _with_defaults(source, kwargs)
        encoder = SpanEncoder.from_tokenizer(tokenizer)
        chat = None
        if source:
            special_tokens = {
                name: str(text) for name, text in tokenizer.special_tokens_map.items()
            }
            template = TemplateSource(source, special_tokens, date)
            chat = ChatFormat.from_template(encoder, template, renderer)
            if chat.template.text != tokenizer.chat_template:
                tokenizer = copy.deepcopy(tokenizer)
                tokenizer.chat_template = chat.template.text
                encoder = replace(encoder, tokenizer=tokenizer)
                chat = replace(chat, encoder=encoder)
        if chat is None and tokenizer.eos_token_id is None:
            raise UsageError(
                "the tokenizer has neither a chat template nor an EOS token, so generation would "
                "never stop",
                hint="set technique.chat_template.source to a template with an end token",
            )
        return cls(tokenizer, encoder, chat)

    def copy(self) -> Template:
        """Return a copy of the template with its own tokenizer, for use in another thread."""
        tokenizer = copy.deepcopy(self.tokenizer)
        encoder = replace(self.encoder, tokenizer=tokenizer)
        return Template(tokenizer, encoder, self.chat and replace(self.chat, encoder=encoder))

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end an answer: the template's end token and the tokenizer's EOS."""
        ids = {self.tokenizer.eos_token_id, self.chat.end_id if self.chat else None}
        return frozenset(int(i) for i in ids if i is not None)

    @property
    def sha256(self) -> str:
        """SHA-256 of the template's source and of the date it prints."""
        source = f"{self.chat.template.date} {self.chat.template.text}" if self.chat else ""
        return hashlib.sha256(source.encode()).hexdigest()

    # ----------------------------------------------------------------- prompts and answers

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt, from which the model generates."""
        return self.encode_prompts([prompt])[0]

    def encode_answer(self, prompt: Prompt, answer: Answer) -> list[int]:
        """Return the token ids of an answer after this prompt, including the end token."""
        return self.encode_exchanges([prompt], [answer])[0][1]

    def encode_prompts(
        self, prompts: Sequence[Prompt], sources: Sequence[str] = ()
    ) -> list[list[int]]:
        """Return the token ids of many prompts, tokenized together.

        ``sources`` states where the prompts come from, such as ``file:line``, for error messages.

        Raises:
            DataError: the template rejects a prompt.
        """
        chats = self._render_chats(prompts, generation=True)
        spans = [
            self._prompt_spans(prompt, _named(chat, sources, i))
            for i, (prompt, chat) in enumerate(zip(prompts, chats, strict=True))
        ]
        return [list(chain.from_iterable(row)) for row in self.encoder.encode(spans)]

    def encode_exchanges(
        self, prompts: Sequence[Prompt], answers: Sequence[Answer], sources: Sequence[str] = ()
    ) -> list[tuple[list[int], list[int]]]:
        """Return the token ids of many prompts and of one answer to each, tokenized together.

        ``sources`` states where the prompts come from, such as ``file:line``, for error messages.

        Raises:
            DataError: the template rejects a prompt with its answer.
        """
        messages = [Message("assistant", a) if isinstance(a, str) else a for a in answers]
        chats = self._render_chats(
            [p if isinstance(p, str) else (*p, m) for p, m in zip(prompts, messages, strict=True)]
        )
        pairs = [
            self._exchange(prompt, message, _named(chat, sources, i))
            for i, (prompt, message, chat) in enumerate(zip(prompts, messages, chats, strict=True))
        ]
        rows = self.encoder.encode([before + after for before, after in pairs])
        return [
            (
                list(chain.from_iterable(row[: len(before)])),
                list(chain.from_iterable(row[len(before) :])),
            )
            for row, (before, _) in zip(rows, pairs, strict=True)
        ]

    def decode_answer(self, ids: Sequence[int]) -> str:
        """Decode generated ids to an answer as in a record, without the end token.

        Text that the template puts in front of an answer, such as empty reasoning tags, is removed.
        """
        keep_control_tokens = self.chat is not None and self.chat.has_control_tokens_in_answers
        text: str = self.tokenizer.decode(
            list(ids),
            skip_special_tokens=not keep_control_tokens,
            clean_up_tokenization_spaces=False,
        )
        if self.chat is None:
            return text
        content = self.chat.content_of(text)
        return self.encoder.control_pattern.sub("", content) if keep_control_tokens else content

    # ----------------------------------------------------------------- examples

    def tokenize_record(
        self, record: Record, max_length: int, *, truncate_prompts: bool = False
    ) -> Sequence[Example]:
        """Return the record's examples.

        Raises:
            DataError: the record yields no example; the message contains the reason.
        """
        tokenized = self.tokenize_records([record], max_length, truncate_prompts=truncate_prompts)
        for problem in tokenized.skipped:
            raise DataError(problem.where, f"{problem.cause}, {problem.detail}")
        return tokenized.examples

    def tokenize_records(
        self,
        records: Iterable[Record],
        max_length: int,
        *,
        truncate_prompts: bool = False,
        folder: Path | None = None,
    ) -> TokenizedRecords:
        """Return examples of at most ``max_length`` tokens, and the skipped records.

        A text that is too long is split into several examples without losing any part. A
        conversation that is too long is skipped or, with ``truncate_prompts``, loses the oldest
        part of its prompt. The last answer is always kept complete: a truncated answer would teach
        the model to stop too early.

        With ``folder``, the examples are written to files there and memory-mapped.
        """
        builder = TokenizedRecordsBuilder(
            max_length, truncate_prompts, self.encoder.bos_ids, ExampleStoreBuilder(folder)
        )
        rows, number = iter(records), count()
        while batch := list(islice(rows, _RECORDS_PER_CALL)):
            pending: list[tuple[int, Record, list[Exchange]]] = []
            for (record, exchanges), index in zip(
                self._exchanges_of_records(batch), number, strict=False
            ):
                if isinstance(exchanges, DataError):
                    builder.skip_record(record, exchanges)
                    continue
                pending.append((index, record, exchanges))
                spans = chain.from_iterable(exchanges[-1])
                if any(span.literal and self._is_control(span.text) for span in spans):
                    builder.with_control_tokens.append(index)
            encoded = iter(
                self.encoder.encode(
                    [prompt + answer for *_, each in pending for prompt, answer in each]
                )
            )
            for index, record, exchanges in pending:
                ids = [next(encoded) for _ in exchanges]
                builder.add(index, record, join_exchanges(exchanges, ids))
        return builder.build()

    def find_problems(self, records: Iterable[Record]) -> Iterator[SkippedRow]:
        """Yield the records that cannot be rendered; nothing is tokenized.

        Raises:
            DataError: the template runs too long or prints too much for a record.
        """
        rows = iter(records)
        while batch := list(islice(rows, _RECORDS_PER_CALL)):
            rejected = [replace(r, chosen=r.rejected) for r in batch if isinstance(r, Preference)]
            pairs = self._exchanges_of_records([*map(unpaired_to_chat, batch), *rejected])
            for record, exchanges in pairs:
                if isinstance(exchanges, DataError):
                    yield build_skipped_row(record, exchanges)

    def _is_control(self, text: str) -> bool:
        return self.encoder.control_pattern.search(text) is not None

    # ----------------------------------------------------------------- spans

    def _exchanges_of_records(
        self, records: Sequence[Record]
    ) -> Iterator[tuple[Record, list[Exchange] | DataError]]:
        """Yield each record with its trained exchanges, or with the error that prevents them.

        Raises:
            TemplateLimitError: the template runs too long or prints too much for a record.
        """
        conversations = [_messages_of(record) for record in records]
        chats = self._render_chats(["" if c is None else c for c in conversations])
        for record, chat in zip(records, chats, strict=True):
            try:
                named = _named(chat, [record.source])
                yield record, self._exchanges_of_record(record, named)
            except TemplateLimitError:
                raise
            except DataError as error:
                yield record, error

    def _exchanges_of_record(
        self, record: Record, chat: RenderedConversation | None
    ) -> list[Exchange]:
        if self.chat and chat is not None and not isinstance(record, Preference):
            return self.chat.trained_exchanges(chat)
        if isinstance(record, Chat) and not any(m.is_trained for m in record.messages):
            raise DataError("conversation", NO_ANSWER)
        prompt, answer = last_exchange(record)  # a pair's earlier answers are in its prompt
        return [self._exchange(prompt, answer, chat)]

    def _render_chats(
        self, prompts: Sequence[Prompt], *, generation: bool = False
    ) -> list[RenderedConversation | DataError | None]:
        """Return each rendered conversation or its error; None for text, or without a template."""
        if self.chat is None:
            return [None] * len(prompts)
        rendered = iter(
            self.chat.render([p for p in prompts if not isinstance(p, str)], generation=generation)
        )
        return [None if isinstance(prompt, str) else next(rendered) for prompt in prompts]

    def _prompt_spans(self, prompt: Prompt, chat: RenderedConversation | None) -> list[TextSpan]:
        if self.chat and chat is not None:
            return self.chat.prompt_spans(chat)
        text = prompt if isinstance(prompt, str) else _single_user_message(prompt)
        return self.encoder.plain_text_spans(text)

    def _exchange(
        self, prompt: Prompt, message: Message, chat: RenderedConversation | None
    ) -> Exchange:
        if self.chat and chat is not None:
            return self.chat.exchange_spans(chat)
        before = self._prompt_spans(prompt, None)
        end = (int(self.tokenizer.eos_token_id),) if self.tokenizer.eos_token_id is not None else ()
        answer, weight = _plain_answer(message), message.weight
        if prompt:
            span = TextSpan(answer, trained=True, literal=True, following_ids=end, weight=weight)
            return Exchange(before, [span])
        # Without a prompt, the answer starts the text, so the BOS comes right before it.
        bos, text = self.encoder.plain_text_spans(answer, trained=True)
        return Exchange([bos], [text._replace(following_ids=end)])


def _messages_of(record: Record) -> tuple[Message, ...] | None:
    """Return a record's conversation; None for plain text."""
    match record:
        case Text():
            return None
        case Completion():
            return Message("user", record.prompt), Message("assistant", record.completion)
        case Chat():
            return record.messages
        case Preference():
            return (*record.prompt, Message("assistant", record.chosen))
        case _:
            raise TypeError(f"cannot make examples from records of type {type(record).__name__}")


def _named(
    chat: RenderedConversation | DataError | None, sources: Sequence[str], index: int = 0
) -> RenderedConversation | None:
    """Return a rendered conversation; raise if it is an error instead.

    Raises:
        DataError: the conversation could not be rendered; the message names its source.
    """
    if not isinstance(chat, DataError):
        return chat
    if not sources:
        raise chat
    what = chat.message.removeprefix(f"{chat.where}: ")
    raise type(chat)(sources[index], what, hint=chat.hint)


def _with_defaults(source: str, kwargs: Mapping[str, Any]) -> str:
    """Return the template with default values for its variables; callers can override them."""
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in kwargs.items()}
    settings = (  # the plus sign keeps a line break that follows
        f"{{% set {name} = {name} if {name} is defined else {value} +%}}"
        for name, value in sorted(values.items())
    )
    return "".join(settings) + source


def _plain_answer(message: Message) -> str:
    """Return the text of an answer for a model without a chat template."""
    _require_plain(message)
    return parse_answer(message).text


def _require_plain(message: Message) -> None:
    """Raise an error for a message that is not plain text, as there is no chat template.

    Raises:
        DataError: the message has tools, or parts with weights.
    """
    if message.tools or message.tool_calls or message.has_weights:
        raise DataError(
            "conversation",
            "the model has no chat template, so a row cannot have tools or weighted parts",
            hint="use the instruction-tuned model, or set technique.chat_template.source",
        )


def _single_user_message(messages: Sequence[Message]) -> str:
    if len(messages) == 1 and messages[0].role == "user":
        _require_plain(messages[0])
        return messages[0].text
    roles = ", ".join(message.role for message in messages) or "no messages"
    raise DataError(
        "conversation",
        f"the model has no chat template, so a prompt must be one user message, got {roles}",
        hint="use the instruction-tuned model, or set technique.chat_template.source",
    )


def read_chat_template(options: TrainingOptions, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the chat template that the options select, or None for the model's own template.

    Raises:
        UsageError: the template file cannot be read.
    """
    source = options.chat_template.source
    if source is None:
        return None
    if source in NAMED_TEMPLATES:
        return named_template(source, list_control_tokens(tokenizer))
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"technique.chat_template.source: cannot read the file: {error}",
            hint="check the path of the template file",
        ) from None
