"""Greedy answers that a model gave, which a constraint may leave as they are.

A baseline asks the same prompts twice, without and with a constraint on the answer. A constraint
removes forbidden tokens before the most likely one is chosen::

    free answer       {  "  a  "  :  1  }  <end>         all tokens are allowed, so the constrained
    allowed by JSON   x  x  x  x  x  x  x    x           answer is the same; nothing is computed

    free answer       S  u  r  e  :  {  "  a ...         the first token is forbidden, so the answer
    allowed by JSON   .                                  is generated with the constraint
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence

from tunesmith_torch.generation.constraints import TokenConstraint
from tunesmith_torch.generation.sequences import GeneratedSequence

MAX_ANSWERS = 4096
"""Keep the newest answers only: a server's prompts never end. With 200 tokens each, 30 MB."""


class KnownAnswers:
    """The newest greedy answers of a model whose weights never change, by the prompt's tokens."""

    def __init__(self) -> None:
        self._answers: dict[bytes, GeneratedSequence] = {}

    def add(
        self, prompts_ids: Sequence[Sequence[int]], answers: Sequence[GeneratedSequence]
    ) -> None:
        """Keep answers that were generated greedily and without a constraint."""
        self._answers.update(zip(map(_key_of, prompts_ids), answers, strict=True))
        while len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]

    def find(
        self,
        prompts_ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        constrain: Callable[[], TokenConstraint],
    ) -> dict[int, GeneratedSequence]:
        """Return the answers that the constraint allows, by the index of their prompt."""
        found: dict[int, GeneratedSequence] = {}
        for index, ids in enumerate(prompts_ids):
            answer = self._answers.get(_key_of(ids))
            if answer is None or not _has_all_tokens(answer, max_new_tokens):
                continue
            if len(answer.ids) > max_new_tokens:
                answer = GeneratedSequence(answer.ids[:max_new_tokens], "length", ())
            if _is_allowed(answer.ids, constrain()):
                found[index] = answer
        return found


def _key_of(ids: Sequence[int]) -> bytes:
    return hashlib.sha256(array("q", ids).tobytes()).digest()


def _has_all_tokens(answer: GeneratedSequence, max_new_tokens: int) -> bool:
    return answer.finish_reason == "stop" or len(answer.ids) >= max_new_tokens


def _is_allowed(ids: Sequence[int], constraint: TokenConstraint) -> bool:
    for count, token in enumerate(ids):
        allowed_V = constraint.allow(ids[:count])
        if token >= len(allowed_V) or not allowed_V[token]:
            return False
    return True
