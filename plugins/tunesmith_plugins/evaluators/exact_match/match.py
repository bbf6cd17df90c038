"""Greedy answers compared with the references."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import DataError
from tunesmith.records import Record, last_exchange

METRIC_NAME = "exact-match"
SPARE_TOKENS = 8
MOST_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """When two answers count as the same."""

    ignore_case: bool = False
    extract: re.Pattern[str] | None = None

    def __call__(self, text: str) -> str | None:
        """The text to compare; None if there is nothing to extract.

        White space is trimmed and collapsed and Unicode composed (NFC), because a reader sees no
        difference. Case and punctuation count.
        """
        if self.extract is not None:
            matches = list(self.extract.finditer(text))
            if not matches:
                return None
            found = matches[-1]  # the conclusion comes last
            text = (found.group(1) if self.extract.groups else found.group()) or ""
        text = " ".join(unicodedata.normalize("NFC", text).split())
        return text.casefold() if self.ignore_case else text


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """1 for a record whose final answer the model gives, else 0."""

    normalisation: Normalisation
    max_length: int | None = None

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Ask for every record's final answer and compare.

        Raises:
            DataError: nothing can be extracted from a reference.
        """
        asked = [last_exchange(record) for record in records]
        references = [answer for _, answer in asked]
        wanted = [
            self._reference(record, answer)
            for record, answer in zip(records, references, strict=True)
        ]
        limit = self.max_length or token_limit(references)
        said = [generation.text for generation in model.generate([p for p, _ in asked], limit)]
        values = tuple(
            float(self.normalisation(answer) == reference)
            for answer, reference in zip(said, wanted, strict=True)
        )
        return [Measurement(metric=METRIC_NAME, values=values, outputs=tuple(said))]

    def _reference(self, record: Record, answer: str) -> str:
        wanted = self.normalisation(answer)
        if wanted is None:
            raise DataError(record.source, "the reference answer has nothing that `extract` finds")
        return wanted


def token_limit(references: Sequence[str]) -> int:
    """Enough tokens for the longest reference.

    No tokenizer in use makes more tokens of a text than it has bytes in UTF-8; a few are added
    for the end of the turn. A model that talks on is cut off there, and is wrong anyway.
    """
    longest = max((len(reference.encode()) for reference in references), default=0)
    return min(longest + SPARE_TOKENS, MOST_TOKENS)
