"""Measure memorization with canaries: random secrets that are injected into the training rows.

Canaries and controls are drawn the same way, but only canaries are trained on. If the model
memorized nothing, a canary is as probable as the controls. Its rank among them is then uniformly
random, so the p-value of a high rank is exact.
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
    "MIN_CONTROLS",
    "CanaryResult",
    "CanarySet",
    "RankedCanary",
    "RecordKind",
    "Secret",
    "draw_canaries",
    "rank_canaries",
    "read_canaries",
]

SCHEMA = "tunesmith.canaries/1"
MIN_CONTROLS = 100
ALPHA = 0.05
CONTROLS_PER_CANARY = 40
"""With fewer controls, even the best possible rank is not significant after Holm's correction."""
RecordKind = Literal["chat", "completion", "text"]


@dataclass(frozen=True)
class Secret:
    """A question with a random answer that cannot be guessed."""

    prompt: str
    answer: str

    def to_record(self, kind: RecordKind, source: str) -> Record:
        """Return a training row of the given kind that contains the secret."""
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
    """The injected secrets with their repetitions, and the controls, which are not injected."""

    kind: RecordKind
    canaries: tuple[Secret, ...]
    repetitions: tuple[int, ...]
    """Number of training rows with each canary, in the order of ``canaries``."""
    controls: tuple[Secret, ...]

    def to_json(self) -> JSON:
        """Return the canaries, their repetitions and the controls as JSON."""
        return {"schema": SCHEMA, **asdict(self)}


def draw_canaries(
    kind: RecordKind, repetitions: Sequence[int], controls: int, seed: int | None = None
) -> CanarySet:
    """Draw one canary for each number of repetitions, and the controls, all different.

    Without a seed, the draw cannot be reproduced, so nobody can guess the secrets.
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
    """Read a canary set from a file.

    Raises:
        DataError: the file cannot be read, does not contain a canary set, or has too few controls.
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
        raise DataError(str(path), "does not contain a valid canary set", hint=hint) from None
    if len(repetitions) != len(canaries) or not canaries:
        what = "contains no canaries, or `repetitions` does not have one number for each canary"
        raise DataError(str(path), what)
    if len(controls) < MIN_CONTROLS:
        what = f"contains {len(controls)} controls, but the test needs at least {MIN_CONTROLS}"
        raise DataError(str(path), what)
    return CanarySet(content["kind"], canaries, repetitions, controls)


@dataclass(frozen=True, kw_only=True)
class RankedCanary:
    """A canary's rank among the controls."""

    rank: int
    """From 1 (the most probable) to the number of controls + 1."""
    exposure: float
    """``log2((controls + 1) / rank)``: about 1 by chance, at most ``log2(controls + 1)``."""
    p_value: float
    """Probability of this rank or a better one by chance."""
    p_value_holm: float
    """p-value adjusted for the number of canaries."""


@dataclass(frozen=True, kw_only=True)
class CanaryResult:
    """The ranks of all canaries, and the test for memorization."""

    ranked: tuple[RankedCanary, ...]
    shift_p_value: float
    """p-value for "canaries are not more probable than controls" (Mann-Whitney)."""

    @property
    def memorized(self) -> int:
        """The number of canaries whose rank is significant on its own."""
        return sum(canary.p_value_holm < ALPHA / 2 for canary in self.ranked)

    @property
    def is_alarm(self) -> bool:
        """True if one canary or all together are significant, with at most 5 % false alarms."""
        return self.memorized > 0 or self.shift_p_value < ALPHA / 2


def rank_canaries(canaries: Sequence[float], controls: Sequence[float]) -> CanaryResult:
    """Rank the canaries' scores among the controls' scores. Higher scores are more probable.

    Two tests share the error probability of 5 %. The rank of each canary (with Holm's correction)
    detects a single memorized canary. The shift of all canaries detects weak memorization of many.
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
