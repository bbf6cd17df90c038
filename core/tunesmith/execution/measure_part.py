"""Measure some of the test rows, with rules that an evaluator derives from all test rows.

An evaluator may derive a token limit, labels or a schema from rows. If it used only the measured
rows, these rules would differ between a baseline on some rows and the tuned model on all rows. The
same model would then get different scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tunesmith.contracts import (
    ComparingEvaluator,
    Evaluator,
    Generation,
    Measurement,
    RunContext,
    TextModel,
    TokenScores,
)
from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith.offers import EvaluatorOffer
from tunesmith.prepared import PreparedEvaluator
from tunesmith.records import Completion, Prompt, Record, exchanges

R = TypeVar("R", TokenScores, Generation)
_NO_SCORES = TokenScores((0.0,))
_NO_ANSWER = Generation("", 0, "stop")


def prepare(evaluator: Evaluator, references: Sequence[Record]) -> Evaluator:
    """Return the evaluator after it has derived its rules from the rows in ``references``."""
    if isinstance(evaluator, PreparedEvaluator):
        return evaluator.prepare(references)
    return evaluator


def measure_part(
    offer: EvaluatorOffer[Any],
    evaluator: Evaluator,
    model: TextModel,
    records: Sequence[Record],
    run: RunContext,
) -> list[Measurement]:
    """Measure a model on some records, with rules derived from all test records of the run.

    A :class:`PreparedEvaluator` derives its rules separately. Any other evaluator also gets the
    other test records, after the measured ones. The model does not answer these other records, and
    their values are dropped. This would distort a metric over all rows, so such a metric is
    measured on ``records`` alone. Baselines measured by such a metric always answer all test rows.
    """
    references = run.test or records
    prepared = prepare(evaluator, references)
    is_joint = not all(metric.is_row_mean for metric in offer.metrics)
    if isinstance(evaluator, PreparedEvaluator) or is_joint:
        return _measure(prepared, model, records, run)
    known = {*map(hash, records)}
    others = [record for record in references if hash(record) not in known]
    if not others:
        return _measure(prepared, model, records, run)
    silent = _list_prompts(others) - _list_prompts(records)

    def open_model(artifact: Path | None) -> TextModel:
        return EmptyAnswerModel(run.open(artifact), silent)

    context, shown = replace(run, open=open_model), [*records, *others]
    returned = _measure(prepared, EmptyAnswerModel(model, silent), shown, context)
    return [_cut(measurement, len(shown), len(records)) for measurement in returned]


def _measure(
    evaluator: Evaluator, model: TextModel, records: Sequence[Record], run: RunContext
) -> list[Measurement]:
    if isinstance(evaluator, ComparingEvaluator):
        return [*evaluator.compare(model, records, run)]
    return [*evaluator.measure(model, records)]


def _list_prompts(records: Sequence[Record]) -> frozenset[Prompt]:
    plain = (record.prompt for record in records if isinstance(record, Completion))
    return frozenset(chain((p for r in records for p, _ in exchanges(r)), plain))


def _cut(measurement: Measurement, shown: int, count: int) -> Measurement:
    """Return a measurement of ``shown`` records with only the first ``count`` values.

    Details and interval are dropped. Columns of another length are kept, and rejected later.
    """
    if not isinstance(measurement, Measurement) or measurement.records is not None:
        return measurement

    def cut(column: Any) -> Any:
        return column[:count] if column is not None and len(column) == shown else column

    return replace(
        measurement,
        values=cut(measurement.values),
        weights=cut(measurement.weights),
        outputs=cut(measurement.outputs),
        details={},
        interval=None,
    )


@dataclass(frozen=True)
class EmptyAnswerModel(WrappedModel):
    """A text model that answers some prompts with an empty text, without running the model."""

    silent: frozenset[Prompt]

    def _call(
        self,
        method: Callable[..., Sequence[R]],
        prompts: Sequence[Prompt],
        *columns: object,
        **named: Any,
    ) -> Sequence[R]:
        asked = [place for place, prompt in enumerate(prompts) if prompt not in self.silent]

        def keep(column: Any) -> Any:
            is_column = isinstance(column, Sequence) and len(column) == len(prompts)
            return [column[place] for place in asked] if is_column else column

        results = super()._call(method, keep(prompts), *map(keep, columns), **named)
        found = dict(zip(asked, results, strict=True))
        empty: Any = _NO_SCORES if method.__name__.startswith("score") else _NO_ANSWER
        return [found.get(place, empty) for place in range(len(prompts))]
