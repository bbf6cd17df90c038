"""Answers in the making: what was asked, what has been said, and the next token.

Shapes: N rows with new logits, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from tunesmith_torch.generation.sampling import Sampler


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer."""

    ids: tuple[int, ...]
    """The token that ended it is the last one."""
    stopped: Literal["end", "limit"]
    logprobs: tuple[float, ...]
    """Of each token, in nats, under the tempered distribution before ``top_p``; empty if greedy."""


@dataclass(slots=True)
class Draft:
    """An answer in the making."""

    index: int
    prompt: Sequence[int]
    """Without the shared beginning."""
    uniforms: list[float]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def result(self, end_ids: frozenset[int]) -> Generated:
        stopped: Literal["end", "limit"] = "end" if self.ids[-1] in end_ids else "limit"
        return Generated(tuple(self.ids), stopped, tuple(self.logprobs))


@dataclass(frozen=True)
class Terms:
    """What does not change while the loop runs."""

    limit: int
    end_ids: frozenset[int]
    budget: int
    sampler: Sampler | None
    progress: Callable[[int], None]

    def finished(self, row: Draft) -> bool:
        return row.ids[-1] in self.end_ids or len(row.ids) == self.limit


def choose(logits_NV: Tensor, rows: Sequence[Draft], sampler: Sampler | None) -> Tensor:
    """Decide each row's next token and write it down."""
    if sampler is None:
        chosen_N = logits_NV.argmax(-1)
    else:
        uniforms = [row.uniforms[len(row.ids)] for row in rows]
        chosen_N, logprob_N = sampler.draw(logits_NV, uniforms)
        for row, logprob in zip(rows, logprob_N.tolist(), strict=True):
            row.logprobs.append(logprob)
    for row, token in zip(rows, chosen_N.tolist(), strict=True):
        row.ids.append(token)
    return chosen_N
