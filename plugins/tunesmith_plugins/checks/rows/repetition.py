"""Find answers that repeat themselves, a common fault of generated data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tunesmith_plugins.checks.rows.detectors import Detector
from tunesmith_plugins.checks.rows.row import Row

MIN_WORDS = 30
WORDS = 8
"""Number of consecutive words that count as the same text if they occur again."""
TIMES = 3
SHARE = 0.4
"""Share of an answer's words that must be in such texts; refrains and loops in code have less."""
MAX_DISTINCT = 1 - SHARE / 2
"""Answers with a larger share of distinct trigrams are not examined further."""
MIN_SPACES = 0.03
"""A text with a smaller share of spaces is in a script such as Chinese: compare its characters."""
_WORD = re.compile(r"\w")


def find_repetition(row: Row) -> str | None:
    """Return the most repeated phrase with its count, or None if an answer repeats too little."""
    words = _split(row.answer)
    if len(words) < MIN_WORDS:
        return None
    trigrams = {*zip(words, words[1:], words[2:], strict=False)}
    if len(trigrams) > MAX_DISTINCT * len(words):
        return None
    grams = [tuple(words[n : n + WORDS]) for n in range(len(words) - WORDS + 1)]
    counts = Counter(grams)
    covered = {
        place
        for n, gram in enumerate(grams)
        if counts[gram] >= TIMES and len({*gram}) > WORDS // 2
        for place in range(n, n + WORDS)
    }
    if len(covered) < SHARE * len(words):
        return None
    gram, count = max(counts.items(), key=lambda item: item[1])
    return f"{count:,} times: {' '.join(gram)}"


def _split(text: str) -> Sequence[str]:
    words = text.casefold().split()
    if len(words) < MIN_SPACES * len(text) and not text.isascii():
        return re.sub(r"\W", "", text)
    return [word for word in words if _WORD.search(word)]


REPETITION = Detector(
    "answers repeat the same words again and again",
    find_repetition,
    "remove or shorten them: the model learns to repeat itself",
)
