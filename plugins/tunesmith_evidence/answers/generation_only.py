"""Base class for text models that generate answers but cannot score existing answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from tunesmith.contracts import Progress, TokenScores
from tunesmith.errors import UsageError
from tunesmith.records import Answer, Prompt

__all__ = ["GenerationOnlyModel"]


class GenerationOnlyModel(ABC):
    """A text model without log-probabilities: :meth:`score` always raises an error."""

    @property
    @abstractmethod
    def refusal(self) -> UsageError:
        """The error that states why the model cannot score, and what to measure instead."""

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Raise the error :attr:`refusal`, because this model cannot score.

        Raises:
            UsageError: always.
        """
        raise self.refusal
