"""Split documents into passages, and find the passages that are most similar to a question."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from tunesmith.encoders import Encoder
from tunesmith_evidence.prompting.bm25 import BM25
from tunesmith_evidence.prompting.shots import VectorIndex
from tunesmith_plugins.baselines.documents.read_folder import Document

Similarity = Literal["both", "lexical", "embeddings"]
RRF_K = 60
"""Constant of reciprocal rank fusion, with its usual value."""
_HEADING = re.compile(r"(#{1,6})\s+(.*?)[\s#]*")
_UNDERLINED = re.compile(r"^(?=\w)(.+)\n(=+|-{3,}) *$", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?]\s)|(?<=\n)")
_WORD = re.compile(r"\S{1,20}\s*")
"""A word, or a part of a long run of characters, such as a Chinese sentence."""


def split_document(document: Document, words: int) -> Iterator[str]:
    """Yield the passages of a document: headings, and up to ``words`` words from one section.

    Split a section at the ends of sentences and lines. Split inside a sentence only if the sentence
    alone is too long.
    """
    headings: dict[int, str] = {}
    for heading, text in _split_sections(document.text):
        if heading is not None:
            level, title = heading
            headings = {n: other for n, other in headings.items() if n < level} | {level: title}
        start = " > ".join(headings.values()) or document.name
        for part in _split_text(text, words):
            yield f"{start}\n{part}"


def _split_sections(text: str) -> Iterator[tuple[tuple[int, str] | None, str]]:
    """Yield each heading's level and title (None before the first), with the text below it."""
    heading, lines, is_code = None, list[str](), False
    for line in _UNDERLINED.sub(_mark_heading, text).split("\n"):
        is_code ^= line.startswith("```")
        match = None if is_code else _HEADING.fullmatch(line)
        if match is None:
            lines.append(line)
            continue
        yield heading, "\n".join(lines)
        heading, lines = (len(match[1]), match[2]), []
    yield heading, "\n".join(lines)


def _mark_heading(match: re.Match[str]) -> str:
    return f"{'#' if match[2].startswith('=') else '##'} {match[1]}"


def _split_text(text: str, words: int) -> Iterator[str]:
    """Yield parts of up to ``words`` words that end where a sentence or a line ends."""
    part, size = "", 0
    for sentence in _SENTENCE_END.split(text):
        found = _WORD.findall(sentence)
        if size + len(found) > words and part.strip():
            yield part.strip()
            part, size = "", 0
        if len(found) > words:
            *full, found = [found[row : row + words] for row in range(0, len(found), words)]
            yield from map("".join, full)
            sentence = "".join(found)
        part, size = part + sentence, size + len(found)
    if part.strip():
        yield part.strip()


class PassageIndex:
    """Finds the passages that are most similar to a question, by words, by meaning, or by both.

    Reciprocal rank fusion combines the two rankings: a passage scores ``1 / (60 + rank)`` in each.
    Source: Cormack, Clarke and Buettcher, Reciprocal Rank Fusion outperforms Condorcet and
    individual Rank Learning Methods (2009).
    """

    def __init__(self, passages: Sequence[str], encoder: Callable[[], Encoder] | None) -> None:
        self.passages = passages
        self._encoder = encoder
        self._bm25 = BM25(passages)

    def find(self, question: str, count: int, similarity: Similarity) -> list[str]:
        """Return up to ``count`` passages, the most similar first."""
        fused = np.zeros(len(self.passages))
        if similarity != "embeddings":
            scores = self._bm25.scores(question)
            ranked = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores)]
            fused[ranked] += 1 / (RRF_K + 1 + np.arange(len(ranked)))
        if similarity != "lexical":
            ranked = self._meanings.ranked(question)
            fused[ranked] += 1 / (RRF_K + 1 + np.arange(len(ranked)))
        best = np.argsort(-fused, kind="stable")[:count]
        return [self.passages[row] for row in best.tolist() if fused[row] > 0]

    @cached_property
    def _meanings(self) -> VectorIndex:
        assert self._encoder is not None, "similarity by meaning needs an encoder"
        return VectorIndex(self.passages, self._encoder())
