"""Checks of evaluators with fake text models, which need no tensors and take milliseconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.contracts import Measurement, TextModel
from tunesmith.execution.measure_part import prepare
from tunesmith.offers import Metric
from tunesmith.options import from_table
from tunesmith.records import Record
from tunesmith.testing.checks import NeedsSample, NotApplicable, Subject, check, require
from tunesmith.testing.examples import (
    CHATS,
    COMPLETIONS,
    LABELS,
    NUMBERS,
    OBJECTS,
    PREFERENCES,
    TEXTS,
    TOOL_CALLS,
    UNPAIRED_PREFERENCES,
)
from tunesmith.testing.fakes import FakeTextModel, perfect_model
from tunesmith.testing.worked_examples import EvaluatorExample

RECORD_SETS: tuple[tuple[Record, ...], ...] = (
    (*COMPLETIONS, *CHATS),
    PREFERENCES,
    TEXTS,
    UNPAIRED_PREFERENCES,
    OBJECTS,
    NUMBERS,
    TOOL_CALLS,
    LABELS,
)
SAMPLE_ANSWERS = ("", "yes", "NO, STOP!!", "1 2 3", "a long answer " * 30)
"""Answers that differ in many ways. A metric that gives every answer the same value measures
nothing."""


def choose_records(subject: Subject) -> tuple[Record, ...]:
    """Return the offer's records, otherwise some of the kit's.

    Those are records for which the evaluator is a default, or prompts with completions.

    Raises:
        NotApplicable: the evaluator measures only models of a run.
    """
    if subject.offer.needs_run:
        raise NotApplicable("the evaluator measures only models of a run")
    return subject.offer.sample_records or next(
        (records for records in RECORD_SETS if subject.offer.default_for(records)), RECORD_SETS[0]
    )


def partly_right_model(subject: Subject) -> FakeTextModel:
    """Return a model that answers half of the records correctly, so results differ by record."""
    records = choose_records(subject)
    model = perfect_model(records[: len(records) // 2])
    model.logprobs = {answer: [-0.1 * len(answer)] for answer in model.logprobs}
    return model


def measure(
    subject: Subject,
    model: TextModel,
    records: Sequence[Record] | None = None,
    options: Mapping[str, Any] | None = None,
    references: Sequence[Record] | None = None,
) -> dict[str, Measurement]:
    """Measure with a new evaluator; return the measurements by metric.

    The evaluator is prepared for ``references``, which may include more records than the measured
    records. None: it is prepared for ``records``.
    """
    chosen = choose_records(subject) if records is None else records
    config = subject.options() if options is None else from_table(subject.offer.config, options)
    built = prepare(subject.offer.build(config), chosen if references is None else references)
    measured = {m.metric: m for m in built.measure(model, chosen)}
    if any(m.records is not None for m in measured.values()):
        raise NotApplicable("the evaluator measures its own records")
    return measured


def worked_examples(subject: Subject) -> list[EvaluatorExample]:
    """Return the evaluator's worked examples, written by its author."""
    examples = subject.samples.examples.get(subject.offer.name, ())
    return [example for example in examples if isinstance(example, EvaluatorExample)]


@check("evaluator")
def sample_records_can_be_measured(subject: Subject) -> None:
    """The offer's sample records are of kinds that it accepts, and there are at least two.

    With one record, nothing would show that its value does not depend on others.
    """
    records, accepts = subject.offer.sample_records, subject.offer.accepts
    if not records:
        raise NotApplicable("the offer names no records for the kit")
    require(len(records) > 1, "`sample_records` has one record, and two are needed")
    refused = {type(r).__name__ for r in records if accepts is not None and type(r) not in accepts}
    require(not refused, f"`sample_records` has a {', '.join(sorted(refused))}, not in `accepts`")


@check("evaluator")
def metrics_are_declared(subject: Subject) -> None:
    """The evaluator measures the metrics of its offer, with one value per record.

    It may leave out optional metrics.
    """
    records = choose_records(subject)
    measurements = list(subject.build().measure(partly_right_model(subject), records))
    declared = sorted(metric.name for metric in subject.offer.metrics)
    measured = sorted(m.metric for m in measurements)
    optional = {metric.name for metric in subject.offer.metrics if metric.is_optional}
    expected = [name for name in declared if name in measured or name not in optional]
    require(
        measured == expected,
        f"the evaluator measures {measured}, but its offer declares {declared}",
    )
    for m in measurements:
        of = records if m.records is None else m.records
        for name, values in (("values", m.values), ("weights", m.weights), ("outputs", m.outputs)):
            require(
                values is None or len(values) == len(of),
                f"{m.metric} has {len(values or ())} {name} for {len(of)} records",
            )
        numbers = (*m.values, *(m.weights or ()))
        require(all(map(math.isfinite, numbers)), f"{m.metric} is not finite")


@check("evaluator")
def same_result_twice(subject: Subject) -> None:
    """Measuring the same model on the same records gives the same numbers."""
    records = choose_records(subject)
    first, second = (
        list(subject.build().measure(partly_right_model(subject), records)) for _ in range(2)
    )
    require(first == second, "two measurements of one model differ")
    evaluator, model = subject.build(), partly_right_model(subject)
    again = [list(evaluator.measure(model, choose_records(subject))) for _ in range(2)]
    require(again[0] == again[1], "an evaluator that is used twice gives different numbers")


@check("evaluator")
def does_not_depend_on_batching(subject: Subject) -> None:
    """A record's value does not depend on other records, if the metric is a mean over rows."""
    together = measure(subject, partly_right_model(subject))
    of_all_rows = {metric.name for metric in subject.offer.metrics if not metric.is_row_mean}
    records = choose_records(subject)
    for number, record in enumerate(records):
        model = partly_right_model(subject)
        for name, m in measure(subject, model, [record], references=records).items():
            if name in of_all_rows:
                continue
            alone, batched = m.values[0], together[name].values[number]
            require(
                math.isclose(alone, batched, rel_tol=1e-9, abs_tol=1e-12),
                f"{name} of {record.source} is {alone} alone, but {batched} among others",
            )


@check("evaluator")
def perfect_model_scores_best(subject: Subject) -> None:
    """A model that is certain of every right answer scores as well as any other, or better.

    The offer declares whether higher or lower is better. Descriptive and optional metrics are not
    checked, and for a metric over all rows, only the mean counts. If the kit's records lack what a
    metric rates, such as a date in the answer, the offer's ``sample_records`` take their place, or
    the records of worked examples are added.
    """
    rating = [
        metric
        for metric in subject.offer.metrics
        if not (metric.is_descriptive or metric.is_optional)
    ]
    if not rating:
        raise NotApplicable("the metrics describe models and do not rate them")
    undecided = []
    for metric in rating:
        gains = gains_of_perfect_model(subject, metric, choose_records(subject))
        require(min(gains) >= 0, f"{metric.name} rates an ignorant model above a perfect one")
        for example in worked_examples(subject):
            gains += gains_of_perfect_model(subject, metric, example.records, example.options)
        if max(gains) > 0:
            continue
        require(
            not (subject.offer.sample_records or worked_examples(subject))
            and varies_with_the_answer(subject, metric),
            f"{metric.name} does not distinguish a perfect model from a poor one; if it rates "
            "something that these records lack, name some in the offer's `sample_records`, or "
            "pass examples that have it",
        )
        undecided.append(metric.name)
    if undecided:
        raise NeedsSample(
            f"{', '.join(undecided)} rates something that the kit's records lack: "
            f"needs examples for {subject.offer.name}: name some in the offer's `sample_records`, "
            "or pass `examples` in a test"
        )


def gains_of_perfect_model(
    subject: Subject,
    metric: Metric,
    records: Sequence[Record],
    options: Mapping[str, Any] | None = None,
) -> list[float]:
    """Return how much better a perfect model scores than an ignorant one on each record.

    For a metric over all rows, return one number: the sum of these differences.
    """
    best = measure(subject, perfect_model(records), records, options)[metric.name].values
    poor = measure(subject, FakeTextModel(unknown=-9.0), records, options)[metric.name].values
    sign = 1 if metric.higher_is_better else -1
    gains = [sign * (right - wrong) for right, wrong in zip(best, poor, strict=True)]
    return gains if metric.is_row_mean else [math.fsum(gains)]


def varies_with_the_answer(subject: Subject, metric: Metric) -> bool:
    """Return True unless every answer gets the same value."""
    records = choose_records(subject)
    prompts = perfect_model(records).answers
    models = [FakeTextModel(answers=dict.fromkeys(prompts, text)) for text in SAMPLE_ANSWERS]
    return len({tuple(measure(subject, model)[metric.name].values) for model in models}) > 1


@check("evaluator")
def handles_empty(subject: Subject) -> None:
    """Without records, there are no values and no exception."""
    for name, m in measure(subject, partly_right_model(subject), []).items():
        require(len(m.values) == 0, f"{name} has values although there were no records")


@check("evaluator")
def measures_its_examples(subject: Subject) -> None:
    """For the answers in a worked example, the evaluator measures the expected values."""
    chosen = worked_examples(subject)
    if not chosen:
        name = subject.offer.name
        raise NeedsSample(f"needs examples for {name}: pass `examples` in a test")
    for number, example in enumerate(chosen, 1):
        evaluator = subject.offer.build(from_table(subject.offer.config, example.options))
        model = FakeTextModel(answers=example.answers, logprobs=example.logprobs)
        measured = {m.metric: m.values for m in evaluator.measure(model, example.records)}
        for metric, expected in example.values.items():
            values = measured.get(metric, ())
            close = len(values) == len(expected) and all(
                math.isclose(value, right, rel_tol=1e-6, abs_tol=1e-9)
                for value, right in zip(values, expected, strict=True)
            )
            require(
                close, f"example {number}: {metric} is {list(values)}, expected {list(expected)}"
            )
