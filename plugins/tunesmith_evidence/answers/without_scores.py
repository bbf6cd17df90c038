"""Text models that only answer: they have no log-probabilities of given answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from tunesmith.contracts import Progress, TokenScores
from tunesmith.errors import UsageError
from tunesmith.records import Answer, Prompt

__all__ = ["WithoutScores"]


class WithoutScores(ABC):
    """The part of a text model that refuses to score."""

    @property
    @abstractmethod
    def refusal(self) -> UsageError:
        """The error that names the model without log-probabilities, and what to measure instead."""

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Refuse to score.

        Raises:
            UsageError: always.
        """
        raise self.refusal
