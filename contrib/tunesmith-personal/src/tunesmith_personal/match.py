"""Evaluator ``user-exact-match``: each user's own adapter answers the user's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from tunesmith.contracts import Measurement, RunContext, TextModel
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith_evidence.answers.generate import (
    generate_answers,
    read_references,
    resolve_max_new_tokens,
)
from tunesmith_personal.options import UserMatchOptions
from tunesmith_personal.user_models import UserModels

METRIC = "user-exact-match"


@dataclass(frozen=True)
class UserMatch:
    """Scores 1 if the answer of the user's model equals the record's last answer, otherwise 0."""

    options: UserMatchOptions
    max_new_tokens: Literal["auto"] | int

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        return replace(self, max_new_tokens=resolve_max_new_tokens(self.max_new_tokens, references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Rate one model's answers to all records."""
        return self._rate(records, generate_answers(model, records, self.max_new_tokens))

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext
    ) -> Sequence[Measurement]:
        """Rate the answers of the users' own adapters, if the model is the run's tuned model.

        Users without one, and records without a user, get the answers of the model itself.
        """
        models = UserModels.find(model, run)
        if models is None:
            return self.measure(model, records)
        rows: dict[str | None, list[int]] = {}
        for row, record in enumerate(records):
            rows.setdefault(record.group, []).append(row)
        answers = [""] * len(records)
        for user, own in rows.items():
            chosen = (None if user is None else models.open(user)) or model
            asked = [records[row] for row in own]
            found = generate_answers(chosen, asked, self.max_new_tokens)
            for row, answer in zip(own, found, strict=True):
                answers[row] = answer
        return self._rate(records, answers)

    def _rate(self, records: Sequence[Record], answers: Sequence[str]) -> Sequence[Measurement]:
        normalize = self.options.build_normalizer().normalize
        values = []
        for record, expected, answer in zip(
            records, read_references(records, METRIC), answers, strict=True
        ):
            if (reference := normalize(expected)) is None:
                raise DataError(
                    record.source,
                    "the pattern `extract` does not match the reference answer",
                    hint="correct the pattern or this answer",
                )
            values.append(float(normalize(answer) == reference))
        return [Measurement(metric=METRIC, values=tuple(values), outputs=tuple(answers))]
