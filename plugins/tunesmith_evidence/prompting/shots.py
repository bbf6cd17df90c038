"""Choose worked examples for a prompt, at random or by similarity to the question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tunesmith.encoders import Encoder
from tunesmith.records import Message
from tunesmith_evidence.prompting.bm25 import BM25
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.tasks.examples import Example, random_sort_key, take_each_answer_first

__all__ = ["Retriever", "VectorIndex", "choose_shots", "count_fitting_examples"]

MAX_PER_LABEL = 4
"""Maximum number of retrieved examples with the same answer; more would add nothing."""
MAX_EXAMINED = 200
"""Maximum number of ranked rows to examine per wanted example."""
MAX_ANSWER = 512
"""Maximum number of tokens reserved for an answer."""
_PUNCTUATION = re.compile(r"[.,;:?!]+(?!\S)")


def choose_shots(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Choose worked examples at random, covering as many answers as possible.

    Use each distinct answer once before repeating any, so that the examples show as many classes as
    possible. Prefer short examples, because every prompt includes them. The longer half only
    supplies answers that are missing from the shorter half, or examples once the shorter half is
    used up.
    """
    by_length = sorted(examples, key=lambda e: (len(e.question) + len(e.answer), e))
    half = (len(by_length) + 1) // 2
    ordered = [
        example
        for part in (by_length[:half], by_length[half:])
        for example in sorted(part, key=lambda e: random_sort_key(e, seed))
    ]
    return take_each_answer_first(ordered, count)


class Retriever:
    """Finds the training rows whose prompts are most similar to a text.

    Similarity is BM25 or, with an encoder, the product of vectors.
    """

    def __init__(self, examples: Sequence[Example], encoder: Encoder | None = None) -> None:
        texts = [example.text for example in examples]
        self._examples = examples
        self._keys = [_words_of(text) for text in texts]
        self._index = BM25(texts) if encoder is None else VectorIndex(texts, encoder)

    def find(self, text: str, count: int) -> list[Example]:
        """Return up to ``count`` examples, the most similar first, with at most four per answer.

        Examples with the same prompt as ``text`` are skipped, because they would give away the
        answer. For this reason, a training row is never an example for itself.
        """
        key, uses = _words_of(text), Counter[str]()
        found: list[Example] = []
        for row in self._index.ranked(text)[: count * MAX_EXAMINED].tolist():
            example = self._examples[row]
            label = example.answer.strip()
            if self._keys[row] != key and uses[label] < MAX_PER_LABEL:
                uses[label] += 1
                found.append(example)
            if len(found) == count:
                break
        return found


class VectorIndex:
    """Ranks texts by the inner product of their vectors with the vector of a query."""

    def __init__(self, texts: Sequence[str], encoder: Encoder) -> None:
        self._encoder = encoder
        self._vectors = np.asarray(encoder.encode(texts))

    def ranked(self, query: str) -> NDArray[np.int64]:
        """Return the indices of the texts, the best match first; ties keep their order."""
        scores = self._vectors @ np.asarray(self._encoder.encode([query]))[0]
        return np.argsort(-scores, kind="stable")


def _words_of(text: str) -> str:
    """Fold case, and remove repeated spaces and punctuation at the end of words.

    Keep symbols, because "12 + 7" and "12 - 7" are different questions.
    """
    return " ".join(_PUNCTUATION.sub("", text.casefold()).split()) or text


def count_fitting_examples(model: PromptedModel, examples: Sequence[Example], most: int) -> int:
    """Return how many typical examples, up to ``most``, leave room for a question and its answer.

    The result is at least 1.
    """
    ordered = sorted(examples, key=lambda e: (len(e.question) + len(e.answer), e))
    typical = ordered[len(ordered) // 2]
    answer = max(len(e.answer.encode("utf-8", "surrogatepass")) for e in examples)
    prompted = replace(model, find=lambda text: [typical] * most)
    question = (Message("user", typical.question),)
    return max(1, prompted.count_shown(question, min(answer, MAX_ANSWER)))
