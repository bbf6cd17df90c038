"""Checks of evaluators, with text models made of tables: no tensors, milliseconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith.contracts import Measurement, TextModel
from tunesmith.records import Record
from tunesmith.testing.checks import NotApplicable, Subject, check, demand
from tunesmith.testing.examples import CHATS, COMPLETIONS, PREFERENCES, TEXTS
from tunesmith.testing.fakes import FakeTextModel, perfect_model

SETS: tuple[tuple[Record, ...], ...] = ((*COMPLETIONS, *CHATS), PREFERENCES, TEXTS)


def records_for(subject: Subject) -> tuple[Record, ...]:
    """Records that the offer says it suits; questions and answers, where it suits none."""
    return next((records for records in SETS if subject.offer.suits(records)), SETS[0])


def uneven_model(subject: Subject) -> FakeTextModel:
    """A model that knows half of the answers: results differ from record to record."""
    records = records_for(subject)
    knows = perfect_model(records[: len(records) // 2])
    knows.logprobs = {answer: [-0.1 * len(answer)] for answer in knows.logprobs}
    return knows


def measured(
    subject: Subject, model: TextModel, records: Sequence[Record] | None = None
) -> dict[str, Measurement]:
    """What a fresh evaluator says, by metric."""
    chosen = records_for(subject) if records is None else records
    return {m.metric: m for m in subject.build().measure(model, chosen)}


@check("evaluator")
def metrics_are_declared(subject: Subject) -> None:
    """Every metric of the offer is measured, and no other; one value for each record."""
    records = records_for(subject)
    measurements = list(subject.build().measure(uneven_model(subject), records))
    declared = sorted(metric.name for metric in subject.offer.metrics)
    found = sorted(m.metric for m in measurements)
    demand(found == declared, f"it measures {found}, its offer names {declared}")
    for m in measurements:
        for what, values in (("values", m.values), ("weights", m.weights), ("outputs", m.outputs)):
            demand(
                values is None or len(values) == len(records),
                f"{m.metric} has {len(values or ())} {what} for {len(records)} records",
            )
        numbers = (*m.values, *(m.weights or ()))
        demand(all(map(math.isfinite, numbers)), f"{m.metric} is not finite")


@check("evaluator")
def same_result_twice(subject: Subject) -> None:
    """Measuring the same model on the same records gives the same numbers."""
    first, second = (measured(subject, uneven_model(subject)) for _ in range(2))
    demand(first == second, "two measurements of one model differ")
    evaluator, model = subject.build(), uneven_model(subject)
    again = [list(evaluator.measure(model, records_for(subject))) for _ in range(2)]
    demand(again[0] == again[1], "an evaluator that is used twice gives other numbers")


@check("evaluator")
def does_not_depend_on_batching(subject: Subject) -> None:
    """A record's value does not depend on the records that are measured beside it."""
    together = measured(subject, uneven_model(subject))
    for number, record in enumerate(records_for(subject)):
        for name, m in measured(subject, uneven_model(subject), [record]).items():
            alone, beside = m.values[0], together[name].values[number]
            demand(
                math.isclose(alone, beside, rel_tol=1e-9, abs_tol=1e-12),
                f"{name} of {record.source} is {alone} alone and {beside} among others",
            )


@check("evaluator")
def perfect_model_scores_best(subject: Subject) -> None:
    """A model that is certain of every right answer does no worse anywhere, and better somewhere.

    "Better" is what the offer's metric says: higher, or lower. A metric that only describes is
    not asked.
    """
    judging = [metric for metric in subject.offer.metrics if not metric.describes]
    if not judging:
        raise NotApplicable("its metrics describe models and do not judge them")
    best = measured(subject, perfect_model(records_for(subject)))
    poor = measured(subject, FakeTextModel(unknown=-9.0))
    for metric in judging:
        sign = 1 if metric.higher_is_better else -1
        pairs = zip(best[metric.name].values, poor[metric.name].values, strict=True)
        gains = [sign * (right - wrong) for right, wrong in pairs]
        demand(min(gains) >= 0, f"{metric.name} prefers a model that knows nothing")
        demand(max(gains) > 0, f"{metric.name} does not tell a perfect model from a poor one")


@check("evaluator")
def handles_empty(subject: Subject) -> None:
    """No records give no values, and no exception."""
    for name, m in measured(subject, uneven_model(subject), []).items():
        demand(len(m.values) == 0, f"{name} has values where there are no records")
