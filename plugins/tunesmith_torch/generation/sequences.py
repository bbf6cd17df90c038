"""Sequences that are being generated, and the choice of their next tokens.

Shapes: N rows with new logits, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from tunesmith_torch.generation.constraints import TokenConstraint, mask_logits
from tunesmith_torch.generation.prefix_cache import LastPrefix
from tunesmith_torch.generation.prompt_lookup import PromptLookup
from tunesmith_torch.generation.row_adapters import RowAdapter
from tunesmith_torch.generation.sampling import Sampler

__all__ = ["GeneratedSequence"]


@dataclass(frozen=True, slots=True)
class GeneratedSequence:
    """The completion of one prompt."""

    ids: tuple[int, ...]
    """Token ids, including the end token if one was generated."""
    finish_reason: Literal["stop", "length"]
    logprobs: tuple[float, ...]
    """Log-probability of each token in nats, after temperature and before ``top_p``.

    Empty for greedy decoding.
    """


@dataclass(slots=True)
class PartialSequence:
    """A sequence that is being generated."""

    index: int
    """Position of the prompt in the batch, from 0."""
    prompt: Sequence[int]
    """Token ids of the prompt; the decoding loop removes the common prefix."""
    uniforms: list[float]
    """One random number in [0, 1) per token to generate; empty if greedy."""
    constraint: TokenConstraint | None = None
    ids: list[int] = field(default_factory=list)
    """Token ids generated so far."""
    logprobs: list[float] = field(default_factory=list)
    """Log-probability of each generated token when it was drawn, in nats."""
    adapter: RowAdapter | None = None
    """The row's own adapter; None for all rows of a model without such adapters."""
    lookup: PromptLookup | None = None
    """Guesses of the next tokens, if the row was ever alone in a step."""

    def result(self, end_ids: frozenset[int]) -> GeneratedSequence:
        """Return the finished completion."""
        finish_reason: Literal["stop", "length"] = "stop" if self.ids[-1] in end_ids else "length"
        return GeneratedSequence(tuple(self.ids), finish_reason, tuple(self.logprobs))


@dataclass(frozen=True)
class GenerationSettings:
    """Settings that stay constant while a batch is generated."""

    max_new_tokens: int
    """Maximum number of tokens to generate per prompt."""
    end_ids: frozenset[int]
    """Token ids that end an answer."""
    token_budget: int
    """Maximum number of tokens in a batch: rows times the longest prompt with its answer."""
    sampler: Sampler | None
    progress: Callable[[int], None]
    last_prefix: LastPrefix

    def is_finished(self, row: PartialSequence) -> bool:
        """Return True if the last token ends the row or the row has reached its limit."""
        return row.ids[-1] in self.end_ids or len(row.ids) == self.max_new_tokens


def append_next_tokens(
    logits_NV: Tensor, rows: Sequence[PartialSequence], sampler: Sampler | None
) -> Tensor:
    """Choose each row's next token and append it to the row.

    Returns:
        The chosen ids, shape N.
    """
    logits_NV = mask_logits(logits_NV, [row.constraint for row in rows], [row.ids for row in rows])
    if sampler is None:
        next_N = logits_NV.argmax(-1)
    else:
        uniforms = [row.uniforms[len(row.ids)] for row in rows]
        next_N, logprob_N = sampler.sample(logits_NV, uniforms)
        for row, logprob in zip(rows, logprob_N.tolist(), strict=True):
            row.logprobs.append(logprob)
    for row, token in zip(rows, next_N.tolist(), strict=True):
        row.ids.append(token)
    return next_N
