"""Guess the next tokens of a row from its own text, so that one step checks several tokens.

An answer often copies a part of its prompt: a name, a number, a line of code. If a row's last
tokens occurred before, the tokens that followed then are a guess for those that follow now (prompt
lookup decoding, Saxena 2023)::

    row      ... "city": "Bad Homburg" ...  "town": "Bad
    guess                                                 Homburg"

A step for one row reads all weights, so several tokens take hardly longer than one. The model
computes the row's last token and the guesses after it. Each token is then chosen as without
guesses. While it equals the guess, the logits after it are already there:
:func:`tunesmith_torch.generation.prefill.decode_rows`. Rows of a batch share the reading of
weights anyway, so only a row that is alone guesses.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
"""Number of last tokens that must have occurred before."""
MAX_GUESSES = 8
"""Maximum number of guesses in a step."""
MAX_PAUSE = 64
"""Maximum number of tokens without guesses after wrong ones."""


class PromptLookup:
    """Guesses the next tokens of one row: more while they are right, fewer and rarer while not.

    All decisions are based on tokens, never on seconds, so that a run can be repeated.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._prompt_length = len(prompt)
        self._ids: list[int] = []
        self._position_after: dict[tuple[int, ...], int] = {}
        self._num_guesses, self._most = 0, 1
        self._pause, self._resume_at = 1, 0
        self._extend(prompt)

    def guess(self, generated: Sequence[int], limit: int, *, num_wrong: int) -> list[int]:
        """Return at most ``limit`` tokens that may follow the tokens generated so far.

        ``num_wrong``: number of last guesses that were not generated.
        """
        self._extend(generated[len(self._ids) - self._prompt_length :])
        if self._num_guesses:
            self._adapt(self._num_guesses - num_wrong)
        guesses: list[int] = []
        position = self._position_after.get(tuple(self._ids[-NGRAM:]))
        if position is not None and len(self._ids) >= self._resume_at:
            count, period = min(self._most, limit), len(self._ids) - position
            guesses = [self._ids[position + offset % period] for offset in range(count)]
        self._num_guesses = len(guesses)
        return guesses

    def _extend(self, ids: Sequence[int]) -> None:
        for token in ids:
            self._position_after[tuple(self._ids[-NGRAM:])] = len(self._ids)
            self._ids.append(token)

    def _adapt(self, num_right: int) -> None:
        is_right = num_right == self._num_guesses
        self._most = min(2 * self._most, MAX_GUESSES) if is_right else max(num_right, 1)
        self._pause = 1 if num_right else min(2 * self._pause, MAX_PAUSE)
        self._resume_at = len(self._ids) + (0 if num_right else self._pause)
