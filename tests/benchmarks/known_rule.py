"""A task with a known best answer: continuations of stories, a rule, and noisy choices by it.

The rule scores a continuation: two happy words are best, and every word costs a little
(:func:`gold_reward`). Of two continuations the better one is chosen with a probability between one
half and one (Bradley and Terry 1952), so the accuracy of even the best guess is known exactly
(:func:`bayes_accuracy`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

HAPPY = ("happy", "glad", "smiled", "laughed", "fun", "love")
NAMES = ("Tom", "Lily", "Ben", "Anna", "Max", "Sue", "Tim", "Mia")
THINGS = ("dog", "cat", "ball", "bird", "tree", "box", "cake", "car", "boat", "bear")
PLACES = ("park", "house", "garden", "shop", "forest", "school")
CHEERFUL = (
    "{n} was happy.",
    "{n} was very glad.",
    "{n} smiled.",
    "{n} laughed and had fun.",
    "They were happy.",
)
PLAIN = (
    "{n} went home.",
    "{n} was sad.",
    "{n} started to cry.",
    "It was a big day.",
    "The {t} ran away.",
    "{n} said goodbye to the {t}.",
    "They went to the {p}.",
    "{n} was tired and went to bed.",
    "The {t} was too big.",
    "Mom said no.",
)
SHARE_CHEERFUL = 0.15
LABEL_SCALE = 3.0
"""Scale of the choices: ``P(a over b) = sigmoid(LABEL_SCALE (gold(a) - gold(b)))``."""

RULE = '''"""Gold reward of a continuation, for the monitor of the run; written by the benchmark."""

HAPPY = {happy}


def gold(prompt, answer):
    """0 to 1 for up to two happy words, less 1/40 for each word."""
    words = answer.lower().replace(".", " ").split()
    return min(sum(word in HAPPY for word in words), 2) / 2 - len(words) / 40
'''


def gold_reward(continuation: str) -> float:
    """Return 0 to 1 for up to two happy words, less 1/40 for each word; at best 0.95."""
    words = continuation.lower().replace(".", " ").split()
    return min(sum(word in HAPPY for word in words), 2) / 2 - len(words) / 40


def sample_topic(rng: random.Random) -> dict[str, str]:
    """Return random words for a story, by the placeholders of the sentences."""
    words = {"n": NAMES, "t": THINGS, "p": PLACES}
    return {key: rng.choice(choices) for key, choices in words.items()}


def make_prompt(topic: dict[str, str]) -> str:
    return "{n} saw a {t} in the {p}.".format(**topic)


def sample_continuation(topic: dict[str, str], rng: random.Random) -> str:
    """Return one to four sentences, few of them cheerful."""
    kinds = [
        CHEERFUL if rng.random() < SHARE_CHEERFUL else PLAIN
        for _ in range(rng.choice(SENTENCE_COUNTS))
    ]
    return " ".join(rng.choice(kind).format(**topic) for kind in kinds)


SENTENCE_COUNTS = (1, 2, 2, 3, 3, 4)


def preference_probability(first: str, second: str) -> float:
    """Return the probability that the first of two continuations is chosen."""
    return 1 / (1 + math.exp(-LABEL_SCALE * (gold_reward(first) - gold_reward(second))))


def bayes_accuracy(rows: Sequence[dict[str, str]]) -> float:
    """Return the expected accuracy of the best possible guess over the noise of the choices."""
    probabilities = [preference_probability(row["chosen"], row["rejected"]) for row in rows]
    return math.fsum(max(p, 1 - p) for p in probabilities) / len(probabilities)


def expected_accuracy(rows: Sequence[dict[str, str]], gaps: Sequence[float]) -> float:
    """Return the expected accuracy of a reward model over the noise of the choices.

    ``gaps``: its reward of the chosen continuation minus that of the rejected one.
    """
    agreements = []
    for row, gap in zip(rows, gaps, strict=True):
        p = preference_probability(row["chosen"], row["rejected"])
        agreements.append(0.5 if gap == 0 else p if gap > 0 else 1 - p)
    return math.fsum(agreements) / len(agreements)


def accuracy(gaps: Sequence[float]) -> float:
    """Return the share of pairs with a higher reward of the chosen one; a tie is half a pair."""
    return sum(0.5 if gap == 0 else float(gap > 0) for gap in gaps) / len(gaps)
