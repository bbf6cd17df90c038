"""From pieces of text to token ids, with the line between text and control tokens kept.

A tokenizer turns ``<|im_end|>`` into the control token wherever it meets it, also where a user
typed it, and so lets data end turns. Here every piece of text says whether control tokens may
come out of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase


class Span(NamedTuple):
    """A piece of text that is tokenised by itself."""

    text: str
    trained: bool = False
    """Whether its tokens carry loss."""
    literal: bool = False
    """Control tokens in it are text like any other."""
    start: bool = False
    """Nothing comes before it."""
    then: tuple[int, ...] = ()
    """Ids that follow and that no text spells, trained as the span is."""


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, and what had to be found out about it by trying."""

    tokenizer: PreTrainedTokenizerBase
    control: re.Pattern[str]
    """Matches the text of every control token."""
    before: tuple[int, ...]
    """Ids that the tokenizer puts before bare text by itself: BOS, or nothing."""
    anchor: str
    """What must stand before a continuation so that no space is put before it; often nothing."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Encoder:
        """Try the tokenizer out."""
        plain = tokenizer("x", add_special_tokens=False)["input_ids"]
        dressed = tokenizer("x")["input_ids"]
        before: tuple[int, ...] = ()
        for cut in range(len(dressed) - len(plain) + 1):
            if dressed[cut : cut + len(plain)] == plain:
                before = tuple(dressed[:cut])
                break
        after_newline = tokenizer("\nx", add_special_tokens=False)["input_ids"]
        newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
        return cls(
            tokenizer,
            _any_of(t.content for t in tokenizer.added_tokens_decoder.values() if t.special),
            before,
            anchor="" if after_newline == newline + plain else "\n",
        )

    def encode(self, rows: Sequence[Sequence[Span]]) -> list[list[list[int]]]:
        """Ids for every span of every row, all tokenised in two calls at most."""
        places: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for row, spans in enumerate(rows):
            for column, span in enumerate(spans):
                places[span.literal].append((row, column))
        out: list[list[list[int]]] = [[[] for _ in spans] for spans in rows]
        for literal, cells in places.items():
            for (row, column), ids in zip(
                cells, self._tokenize([rows[r][c] for r, c in cells], literal), strict=True
            ):
                out[row][column] = [*ids, *rows[row][column].then]
        return out

    def _tokenize(self, spans: Sequence[Span], literal: bool) -> Iterable[list[int]]:
        if not spans:
            return []
        texts = [span.text if span.start else self.anchor + span.text for span in spans]
        rows: list[list[int]] = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            split_special_tokens=literal,
            verbose=False,
        )["input_ids"]
        if not self.anchor:
            return rows
        anchor: list[int] = self.tokenizer(self.anchor, add_special_tokens=False)["input_ids"]
        return [
            ids[len(anchor) :] if not span.start and ids[: len(anchor)] == anchor else ids
            for span, ids in zip(spans, rows, strict=True)
        ]

    def bare(self, text: str, *, trained: bool = False) -> list[Span]:
        """Text without a template: what the tokenizer puts before it once, and no control token.

        Text that was rendered elsewhere may begin with the BOS that the tokenizer adds anyway.
        """
        bos = self.tokenizer.bos_token
        if self.before and bos and text.startswith(bos):
            text = text[len(bos) :]
        return [
            Span("", start=True, then=self.before),
            Span(text, trained=trained, literal=True, start=True),
        ]


class Marks:
    """Stand-ins for control tokens that occur in what people wrote.

    Each is one private-use character which none of the texts contains, so that a template can
    carry it around; :meth:`spans` puts the text back, as literal spans.
    """

    def __init__(self, control: re.Pattern[str], texts: Sequence[str]) -> None:
        found = sorted({hit for text in texts for hit in control.findall(text)})
        joined = "".join(texts) if found else ""
        free = (chr(n) for n in range(0xF0000, 0xFFFFE) if chr(n) not in joined)
        self._mark_of = dict(zip(found, free, strict=False))
        self._text_of = {mark: text for text, mark in self._mark_of.items()}
        self._control = control
        self._marks = _any_of(self._text_of)

    def hide(self, text: str) -> str:
        """The text with a mark for each control token."""
        if not self._mark_of:
            return text
        return self._control.sub(lambda hit: self._mark_of[hit.group()], text)

    def spans(
        self, text: str, *, trained: bool, start: bool, then: tuple[int, ...] = ()
    ) -> list[Span]:
        """The text as spans, marks put back as literal ones."""
        if not self._mark_of:
            return [Span(text, trained, start=start, then=then)]
        return list(self._split(text, trained, start, then))

    def _split(
        self, text: str, trained: bool, start: bool, then: tuple[int, ...]
    ) -> Iterator[Span]:
        position = 0
        for hit in self._marks.finditer(text):
            if hit.start() > position:
                yield Span(text[position : hit.start()], trained, start=start and position == 0)
            yield Span(self._text_of[hit.group()], trained, literal=True)
            position = hit.end()
        yield Span(text[position:], trained, start=start and position == 0, then=then)


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest first; nothing at all where there are none."""
    longest_first = sorted((text for text in texts if text), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
