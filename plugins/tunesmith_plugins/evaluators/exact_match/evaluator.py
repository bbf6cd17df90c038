"""Compare greedy answers with the reference answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith_evidence.answers.generate import choose_limit, generate_answers, read_references
from tunesmith_evidence.answers.normalize import TextNormalizer

METRIC_NAME = "exact-match"


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """Scores 1 for a record if the model generates its last answer, else 0."""

    normalizer: TextNormalizer
    max_new_tokens: Literal["auto"] | int = "auto"

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return the evaluator with the limit of tokens for these references."""
        return replace(self, max_new_tokens=choose_limit(self.max_new_tokens, references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate the last answer of every record and compare it with the reference.

        Raises:
            DataError: an answer calls a tool, or ``extract`` finds nothing in a reference.
        """
        references = read_references(records, METRIC_NAME)
        expected = [
            self._normalize_reference(record, reference)
            for record, reference in zip(records, references, strict=True)
        ]
        answers = generate_answers(model, records, self.max_new_tokens)
        values = tuple(
            float(self.normalizer.normalize(answer) == reference)
            for answer, reference in zip(answers, expected, strict=True)
        )
        return [Measurement(metric=METRIC_NAME, values=values, outputs=answers)]

    def _normalize_reference(self, record: Record, reference: str) -> str:
        normalized = self.normalizer.normalize(reference)
        if normalized is None:
            raise DataError(record.source, "the reference answer has nothing that `extract` finds")
        return normalized
