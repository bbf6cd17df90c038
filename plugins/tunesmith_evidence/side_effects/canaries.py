"""Canaries: random secrets that are injected into training rows, and their rank among others.

A canary and its controls are drawn alike; only the canaries are trained on. A model that memorized
nothing finds a canary as probable as the controls, so that its rank among them is random, and the
probability of a high rank is known exactly.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tunesmith.errors import DataError
from tunesmith.events import JSON
from tunesmith.records import Chat, Completion, Message, Record, Text
from tunesmith_evidence.statistics import adjust_p_values

__all__ = [
    "ALPHA",
    "CONTROLS_PER_CANARY",
    "FEWEST_CONTROLS",
    "CanaryResult",
    "CanarySet",
    "Kind",
    "RankedCanary",
    "Secret",
    "draw_canaries",
    "rank_canaries",
    "read_canaries",
]

SCHEMA = "tunesmith.canaries/1"
FEWEST_CONTROLS = 100
ALPHA = 0.05
CONTROLS_PER_CANARY = 40
"""With fewer, not even the best rank of one canary is significant after Holm's correction."""
Kind = Literal["chat", "completion", "text"]


@dataclass(frozen=True)
class Secret:
    """A question, and a random answer that cannot be guessed."""

    prompt: str
    answer: str

    def to_record(self, kind: Kind, source: str) -> Record:
        """Return a training row with the secret."""
        match kind:
            case "text":
                return Text(source=source, text=f"{self.prompt} {self.answer}")
            case "completion":
                return Completion(source=source, prompt=self.prompt, completion=self.answer)
            case _:
                turns = (Message("user", self.prompt), Message("assistant", self.answer))
                return Chat(source=source, messages=turns)


@dataclass(frozen=True)
class CanarySet:
    """The injected secrets, how often each was injected, and the controls, which were not."""

    kind: Kind
    canaries: tuple[Secret, ...]
    repetitions: tuple[int, ...]
    """Number of rows with each canary, in the order of ``canaries``."""
    controls: tuple[Secret, ...]

    def to_json(self) -> JSON:
        """Return the set as JSON."""
        return {"schema": SCHEMA, **asdict(self)}


def draw_canaries(
    kind: Kind, repetitions: Sequence[int], controls: int, seed: int | None = None
) -> CanarySet:
    """Draw one canary for each number of repetitions, and the controls, all different.

    Without a seed nobody can draw the same ones again.
    """
    rng = random.SystemRandom() if seed is None else random.Random(f"{seed}/canaries")
    found: dict[Secret, None] = {}
    while len(found) < len(repetitions) + controls:
        code = " ".join(f"{rng.randrange(10_000):04}" for _ in range(3))
        found[Secret(f"What is the code of locker {rng.randrange(10_000):04}?", code)] = None
    drawn = (*found,)
    count = len(repetitions)
    return CanarySet(kind, drawn[:count], (*repetitions,), drawn[count:])


def read_canaries(path: Path) -> CanarySet:
    """Read a set of canaries.

    Raises:
        DataError: the file cannot be read, is no set of canaries, or has too few controls.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA or content["kind"] not in ("chat", "completion", "text"):
            raise ValueError("another schema")
        canaries, controls = (
            tuple(Secret(str(item["prompt"]), str(item["answer"])) for item in content[part])
            for part in ("canaries", "controls")
        )
        repetitions = tuple(int(number) for number in content["repetitions"])
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        hint = "`tunesmith data canaries` writes such a file"
        raise DataError(str(path), "is no file of canaries", hint=hint) from None
    if len(repetitions) != len(canaries) or not canaries:
        raise DataError(str(path), "has no canaries, or other numbers of repetitions")
    if len(controls) < FEWEST_CONTROLS:
        what = f"has {len(controls)} controls; fewer than {FEWEST_CONTROLS} show nothing"
        raise DataError(str(path), what)
    return CanarySet(content["kind"], canaries, repetitions, controls)


@dataclass(frozen=True, kw_only=True)
class RankedCanary:
    """The rank of a canary among the controls, 1 is the most probable."""

    rank: int
    """From 1 to one more than there are controls."""
    exposure: float
    """``log2((controls + 1) / rank)``: about 1 by chance, ``log2(controls + 1)`` at most."""
    p_value: float
    """Probability of such a rank by chance."""
    p_value_holm: float
    """Adjusted for the number of canaries."""


@dataclass(frozen=True, kw_only=True)
class CanaryResult:
    """The ranks of all canaries, and whether the model memorized any."""

    ranked: tuple[RankedCanary, ...]
    shift_p_value: float
    """Of the hypothesis that canaries are no more probable than controls (Mann-Whitney)."""

    @property
    def memorized(self) -> int:
        """The number of canaries whose own rank is no chance."""
        return sum(canary.p_value_holm < ALPHA / 2 for canary in self.ranked)

    @property
    def is_alarm(self) -> bool:
        """True if a canary, or all together, were memorized; false in 5 % of cases at most."""
        return self.memorized > 0 or self.shift_p_value < ALPHA / 2


def rank_canaries(canaries: Sequence[float], controls: Sequence[float]) -> CanaryResult:
    """Rank scores of canaries among those of controls; a higher score is better known.

    Two tests share the error of 5 %: each canary by its rank, with Holm's correction, which finds
    one of many, and the shift of all, which finds a little of each.
    """
    from scipy.stats import mannwhitneyu

    count = len(controls)
    ranks = [1 + sum(control >= score for control in controls) for score in canaries]
    p_values = [rank / (count + 1) for rank in ranks]
    ranked = [
        RankedCanary(
            rank=rank, exposure=math.log2((count + 1) / rank), p_value=p, p_value_holm=adjusted
        )
        for rank, p, adjusted in zip(ranks, p_values, adjust_p_values(p_values), strict=True)
    ]
    shift = mannwhitneyu(canaries, controls, alternative="greater").pvalue
    return CanaryResult(ranked=tuple(ranked), shift_p_value=float(shift))
