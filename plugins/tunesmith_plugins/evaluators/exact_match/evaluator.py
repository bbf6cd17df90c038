"""Compare greedy answers with the reference answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import DataError
from tunesmith.records import Message, Record, last_exchange

METRIC_NAME = "exact-match"
END_OF_TURN_TOKENS = 8
"""Tokens added to the longest reference, for the end of the turn."""
_REASONING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
MAX_NEW_TOKENS = 512
"""Largest limit that is chosen automatically."""


@dataclass(frozen=True, kw_only=True)
class TextNormalizer:
    """Normalizes answers before they are compared."""

    ignore_case: bool = False
    extract: re.Pattern[str] | None = None

    def normalize(self, text: str) -> str | None:
        """Return the text to compare; None if the pattern ``extract`` finds nothing.

        Reasoning between ``<think>`` marks in front of an answer is not a part of it.
        White space is trimmed and collapsed and Unicode is composed (NFC), because a reader sees
        no difference. Case and punctuation count.
        """
        text = _REASONING.sub("", text, count=1)
        if self.extract is not None:
            matches = list(self.extract.finditer(text))
            if not matches:
                return None
            last = matches[-1]  # an answer ends with its result
            text = (last.group(1) if self.extract.groups else last.group()) or ""
        text = " ".join(unicodedata.normalize("NFC", text).split())
        return text.casefold() if self.ignore_case else text


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """Scores 1 for a record if the model generates its last answer, else 0."""

    normalizer: TextNormalizer
    max_new_tokens: int | None = None

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate the last answer of every record and compare it with the reference.

        Raises:
            DataError: an answer calls a tool, or ``extract`` finds nothing in a reference.
        """
        exchanges = [last_exchange(record) for record in records]
        for record, (_, answer) in zip(records, exchanges, strict=True):
            if answer.tool_calls:
                hint = "leave exact-match out, or use loss: it scores tool calls too"
                raise DataError(record.source, "exact-match cannot compare tool calls", hint=hint)
        prompts = [prompt for prompt, _ in exchanges]
        references = [answer.text for _, answer in exchanges]
        expected = [
            self._normalize_reference(record, reference)
            for record, reference in zip(records, references, strict=True)
        ]
        longest = [_with_reasoning(answer) for _, answer in exchanges]
        max_new_tokens = self.max_new_tokens or choose_max_new_tokens(longest)
        answers = [generation.text for generation in model.generate(prompts, max_new_tokens)]
        values = tuple(
            float(self.normalizer.normalize(answer) == reference)
            for answer, reference in zip(answers, expected, strict=True)
        )
        return [Measurement(metric=METRIC_NAME, values=values, outputs=tuple(answers))]

    def _normalize_reference(self, record: Record, reference: str) -> str:
        normalized = self.normalizer.normalize(reference)
        if normalized is None:
            raise DataError(record.source, "the reference answer has nothing that `extract` finds")
        return normalized


def _with_reasoning(answer: Message) -> str:
    """Return the text that a model generates for an answer, as most templates write it."""
    return (
        f"<think>\n{answer.reasoning}\n</think>\n\n{answer.text}"
        if answer.reasoning
        else answer.text
    )


def choose_max_new_tokens(references: Sequence[str]) -> int:
    """Return a limit that is large enough for the longest reference.

    No tokenizer in use makes more tokens of a text than the text has bytes in UTF-8; a few tokens
    are added for the end of the turn. A longer answer is cut off there, and is wrong anyway.
    """
    longest = max((len(reference.encode()) for reference in references), default=0)
    return min(longest + END_OF_TURN_TOKENS, MAX_NEW_TOKENS)
