"""A task whose best answers are known: stories to go on with, a rule, and a noisy judge.

A rule says how good a continuation is: two happy words are best, every word costs a little
(:func:`gold`). The judge takes the better of two answers more often than not (Bradley and Terry
1952), so how often even the rule agrees with it is known exactly (:func:`ceiling`).
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
SCALE = 3.0
"""How sure the judge is: ``P(a over b) = sigmoid(SCALE (gold(a) - gold(b)))``."""

RULE = '''"""How good a continuation is: written by the example for the run that watches it."""

HAPPY = {happy}


def gold(prompt, answer):
    """0 to 1 for up to two happy words, less 1/40 for each word."""
    words = answer.lower().replace(".", " ").split()
    return min(sum(word in HAPPY for word in words), 2) / 2 - len(words) / 40
'''


def gold(answer: str) -> float:
    """0 to 1 for up to two happy words, less 1/40 for each word; at best 0.95."""
    words = answer.lower().replace(".", " ").split()
    return min(sum(word in HAPPY for word in words), 2) / 2 - len(words) / 40


def opening(draw: random.Random) -> dict[str, str]:
    """What a story is about."""
    words = {"n": NAMES, "t": THINGS, "p": PLACES}
    return {key: draw.choice(choices) for key, choices in words.items()}


def prompt(about: dict[str, str]) -> str:
    return "{n} saw a {t} in the {p}.".format(**about)


def continuation(about: dict[str, str], draw: random.Random) -> str:
    """One to four sentences, few of them cheerful."""
    kinds = [
        CHEERFUL if draw.random() < SHARE_CHEERFUL else PLAIN for _ in range(draw.choice(SIZES))
    ]
    return " ".join(draw.choice(kind).format(**about) for kind in kinds)


SIZES = (1, 2, 2, 3, 3, 4)


def chance(one: str, other: str) -> float:
    """How probable it is that the judge takes the first."""
    return 1 / (1 + math.exp(-SCALE * (gold(one) - gold(other))))


def ceiling(rows: Sequence[dict[str, str]]) -> float:
    """What even the best guess agrees with the judge in, over the judge's luck: Bayes' accuracy."""
    sure = [chance(row["chosen"], row["rejected"]) for row in rows]
    return math.fsum(max(p, 1 - p) for p in sure) / len(sure)


def expected_accuracy(rows: Sequence[dict[str, str]], gaps: Sequence[float]) -> float:
    """How often a reward model with these differences will agree with the judge, over its luck."""
    agreed = []
    for row, gap in zip(rows, gaps, strict=True):
        p = chance(row["chosen"], row["rejected"])
        agreed.append(0.5 if gap == 0 else p if gap > 0 else 1 - p)
    return math.fsum(agreed) / len(agreed)


def accuracy(gaps: Sequence[float]) -> float:
    """Share of pairs whose chosen answer is ahead; a tie is half a pair."""
    return sum(0.5 if gap == 0 else float(gap > 0) for gap in gaps) / len(gaps)
