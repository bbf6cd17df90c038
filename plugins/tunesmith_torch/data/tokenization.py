"""Encode pieces of text as token ids. Text that only looks like a control token stays text.

A tokenizer turns ``<|im_end|>`` into the control token wherever it finds it, even where a user
typed it. Data could then end a turn or start another one. So a text is encoded as a list of spans,
and each span states whether its text may become control tokens::

    rendered:  <|im_start|>user\\nsay <|im_end|> now<|im_end|>\\n<|im_start|>assistant\\n
    spans:     |----- template ------||-literal-||------------ template -------------|

:class:`ControlTokenMarks` finds the literal parts. It replaces each typed control token with a
character that occurs nowhere else. The template renders those characters, and
:meth:`ControlTokenMarks.spans` turns them back into the typed text, as literal spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["SpanEncoder", "TextSpan"]


class TextSpan(NamedTuple):
    """A piece of text that is tokenized separately from its neighbors."""

    text: str
    trained: bool = False
    """True if the span's tokens contribute to the loss."""
    literal: bool = False
    """True if control tokens in the text are encoded like ordinary text."""
    at_start: bool = False
    """True if no text precedes the span in its row."""
    following_ids: tuple[int, ...] = ()
    """Token ids to append, with the span's mask; used for tokens without a text."""
    weight: float = 1.0
    """Loss weight of the span's tokens, if they contribute to the loss."""


@dataclass(frozen=True)
class SpanEncoder:
    """A tokenizer and its properties, found by encoding short texts."""

    tokenizer: PreTrainedTokenizerBase
    control_pattern: re.Pattern[str]
    """Pattern that matches the text of every control token."""
    bos_ids: tuple[int, ...]
    """Ids that the tokenizer adds in front of a text: BOS, or nothing."""
    anchor: str
    """Text that is encoded in front of a continuation and then cut off; often empty.

    SentencePiece tokenizers add a space at the start of a text, but not after a newline. With a
    newline as anchor, a continuation gets no such space.
    """

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> SpanEncoder:
        """Find the tokenizer's properties by encoding short texts."""
        plain = tokenizer("x", add_special_tokens=False)["input_ids"]
        with_special = tokenizer("x")["input_ids"]
        bos_ids: tuple[int, ...] = ()
        # The tokenizer may add ids on both sides; the ids in front of the text are the BOS.
        for cut in range(len(with_special) - len(plain) + 1):
            if with_special[cut : cut + len(plain)] == plain:
                bos_ids = tuple(with_special[:cut])
                break
        after_newline = tokenizer("\nx", add_special_tokens=False)["input_ids"]
        newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
        return cls(
            tokenizer,
            _any_of(list_control_tokens(tokenizer)),
            bos_ids,
            anchor="" if after_newline == newline + plain else "\n",
        )

    def encode(self, rows: Sequence[Sequence[TextSpan]]) -> list[list[list[int]]]:
        """Return the ids of every span of every row, with at most two tokenizer calls."""
        positions_by_kind: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for row, spans in enumerate(rows):
            for column, span in enumerate(spans):
                positions_by_kind[span.literal].append((row, column))
        out: list[list[list[int]]] = [[[] for _ in spans] for spans in rows]
        for literal, positions in positions_by_kind.items():
            for (row, column), ids in zip(
                positions, self._tokenize([rows[r][c] for r, c in positions], literal), strict=True
            ):
                out[row][column] = [*ids, *rows[row][column].following_ids]
        return out

    def _tokenize(self, spans: Sequence[TextSpan], literal: bool) -> Iterable[list[int]]:
        if not spans:
            return []
        texts = [span.text if span.at_start else self.anchor + span.text for span in spans]
        rows = _encode_texts(self.tokenizer, texts, literal)
        if not self.anchor:
            return rows
        anchor: list[int] = self.tokenizer(self.anchor, add_special_tokens=False)["input_ids"]
        return [
            # If the tokenizer merges the anchor with the text, the anchor cannot be cut off.
            ids[len(anchor) :] if not span.at_start and ids[: len(anchor)] == anchor else ids
            for span, ids in zip(spans, rows, strict=True)
        ]

    def plain_text_spans(self, text: str, *, trained: bool = False) -> list[TextSpan]:
        """Return a text without a template as spans: ``bos_ids``, then the literal text.

        Text rendered elsewhere may already start with a BOS; it is removed, so the row has one BOS.
        """
        bos = self.tokenizer.bos_token
        if self.bos_ids and bos and text.startswith(bos):
            text = text[len(bos) :]
        return [
            TextSpan("", at_start=True, following_ids=self.bos_ids),
            TextSpan(text, trained=trained, literal=True, at_start=True),
        ]


def list_control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts of the tokenizer's control tokens."""
    return [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]


def _encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], literal: bool
) -> list[list[int]]:
    """Return the ids of texts; if ``literal``, control tokens are encoded as ordinary text.

    If the class does not override transformers' encoding, the tokenizers library is called
    directly. This is faster: it computes no token positions and builds no objects around the ids.
    """
    methods = ("__call__", "_encode_plus", "set_truncation_and_padding")
    if isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), name) is getattr(PreTrainedTokenizerFast, name) for name in methods
    ):
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = literal
        return [row.ids for row in backend.encode_batch_fast(texts, add_special_tokens=False)]
    ids: list[list[int]] = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        split_special_tokens=literal,
        verbose=False,
    )["input_ids"]
    return ids


_NOTHING = re.compile(r"(?!)")


class ControlTokenMarks:
    """Placeholders for control tokens that were typed in the texts of a conversation.

    Each placeholder is a private-use character that occurs in none of the texts, so a template
    passes it through unchanged. :meth:`spans` restores the original text as literal spans.
    """

    def __init__(self, control_pattern: re.Pattern[str], texts: Sequence[str]) -> None:
        control_tokens = sorted(
            {match for text in texts for match in control_pattern.findall(text)}
        )
        joined = "".join(texts) if control_tokens else ""
        unused_characters = (chr(n) for n in range(0xF0000, 0xFFFFE) if chr(n) not in joined)
        self._mark_of = dict(zip(control_tokens, unused_characters, strict=False))
        self._text_of = {mark: text for text, mark in self._mark_of.items()}
        self._control_pattern = control_pattern
        self._marks = _any_of(self._text_of) if self._text_of else _NOTHING

    def mask(self, text: str) -> str:
        """Return the text with every control token replaced with its mark."""
        if not self._mark_of:
            return text
        return self._control_pattern.sub(lambda match: self._mark_of[match.group()], text)

    def spans(
        self, text: str, *, trained: bool, at_start: bool, following_ids: tuple[int, ...] = ()
    ) -> list[TextSpan]:
        """Return the text as spans; marks become literal spans of the original text."""
        if not self._mark_of:
            return [TextSpan(text, trained, at_start=at_start, following_ids=following_ids)]
        return list(self._split(text, trained, at_start, following_ids))

    def _split(
        self, text: str, trained: bool, at_start: bool, following_ids: tuple[int, ...]
    ) -> Iterator[TextSpan]:
        position = 0
        for match in self._marks.finditer(text):
            if match.start() > position:
                yield TextSpan(
                    text[position : match.start()], trained, at_start=at_start and position == 0
                )
            yield TextSpan(self._text_of[match.group()], trained, literal=True)
            position = match.end()
        yield TextSpan(
            text[position:],
            trained,
            at_start=at_start and position == 0,
            following_ids=following_ids,
        )


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the texts, longest first; without texts, nothing."""
    longest_first = sorted((text for text in texts if text), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or _NOTHING.pattern)
