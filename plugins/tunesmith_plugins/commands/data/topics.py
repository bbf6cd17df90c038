"""Group texts into topics by their words, and compute the share of each topic."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith_data.coverage.vectors import sample_rows
from tunesmith_data.near_duplicates import Texts
from tunesmith_data.vectors import MAX_TEXT_CHARACTERS, fit_text_vectors

TOPICS = 10
ROWS_PER_TOPIC = 10
"""Minimum number of rows per topic; with few rows, there are fewer topics."""
MAX_ROWS = 5_000
"""Maximum number of texts to group; more are reduced to a random sample."""
WORDS = 3
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True, slots=True)
class Topic:
    """A group of texts with words in common."""

    words: Sequence[str]
    """Up to three words that are more frequent in these texts than in all texts."""
    share: float
    """Share of the texts that are in the group."""
    row: int
    """Index of the text closest to the center of the group."""


def find_topics(texts: Texts, *, seed: int = 0) -> list[Topic]:
    """Group texts into up to ten topics, the largest first, by k-means on their vectors.

    There is no correct number of topics. Texts with little in common often form one large group,
    and the words of such a group mean little.
    """
    from sklearn.cluster import KMeans

    rows = sample_rows(np.random.default_rng(seed), np.arange(len(texts)), MAX_ROWS)
    read = [texts[int(row)][:MAX_TEXT_CHARACTERS] for row in rows]
    count = min(TOPICS, len(read) // ROWS_PER_TOPIC)
    if count < 2:
        return []
    vectors = fit_text_vectors(read)
    model = KMeans(count, n_init=3, random_state=seed)
    distances = model.fit_transform(vectors)
    in_texts = _count_texts(read)
    topics = []
    for label in np.unique(model.labels_):
        members = np.flatnonzero(model.labels_ == label)
        middle = members[distances[members, label].argmin()]
        words = _typical_words([read[member] for member in members], in_texts, len(read))
        topics.append(Topic(words, len(members) / len(read), int(rows[middle])))
    return sorted(topics, key=lambda topic: (-topic.share, topic.row))


def _count_texts(texts: Iterable[str]) -> Counter[str]:
    """Return the number of texts that contain each word."""
    return Counter(word for text in texts for word in {*_WORD.findall(text.lower())})


def _typical_words(members: Sequence[str], in_texts: Counter[str], total: int) -> list[str]:
    """Return up to three words that are most overrepresented in these texts."""
    gains = {
        word: count / len(members) - in_texts[word] / total
        for word, count in _count_texts(members).items()
    }
    ordered = sorted(gains, key=lambda word: (-gains[word], word))
    return [word for word in ordered[:WORDS] if gains[word] > 0]
