"""The ``memorization`` evaluator: measure which training rows the tuned model reproduces.

A model that has learned a task reproduces some answers verbatim without having memorized them. Two
controls correct for this: test rows, which the model has never seen, and the base model, whose
reproduced rows do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from tunesmith.contracts import Finding, Measurement, RunContext, TextModel
from tunesmith.data.units import RecordsByUnit
from tunesmith.errors import UsageError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith_evidence.number_text import format_difference, format_share
from tunesmith_evidence.statistics.non_inferiority import (
    MIN_UNITS,
    NonInferiority,
    compare_shares,
    difference_of_shares,
)
from tunesmith_plugins.evaluators.memorization.prefixes import choose_rows, measure_reproduction
from tunesmith_torch.compare.other_model import (
    ComparingEvaluator,
    ComparisonOptions,
    open_tuned_comparison_model,
)

METRIC = Metric(name="memorization", higher_is_better=False, bounds=(-2, 2), is_descriptive=True)


class MemorizationOptions(ComparisonOptions):
    """Options of ``memorization``: the rows to complete, their length, and the acceptable share."""

    rows: int = Field(
        200, ge=10, description="Maximum number of training rows, and of test rows, to complete."
    )
    tokens: int = Field(
        32,
        ge=1,
        description="Number of tokens of the continuation that must be reproduced exactly.",
    )
    min_words: int = Field(
        8,
        ge=1,
        description=(
            "Skip rows whose answer has fewer words: a short label is repeated because it is "
            "correct, not because it is memorized."
        ),
    )
    margin: float = Field(
        0.02,
        gt=0,
        lt=1,
        description=(
            "Acceptable difference between the shares of reproduced training rows and test rows. "
            "With 200 rows of each and none reproduced, the upper bound of the difference is "
            "below 0.014."
        ),
    )


class Memorization(ComparingEvaluator):
    """Has both models complete rows, and counts those that only the tuned model reproduces.

    The mean is the share of reproduced training rows minus that of test rows. To make it a mean
    over rows, a reproduced training row has the value 2, a reproduced test row -2, and any other
    row 0. Weights make both kinds of rows count equally.
    """

    def __init__(self, options: MemorizationOptions) -> None:
        self.options = options

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Return one value per completed row, or an empty list without rows or a tuned model.

        Raises:
            UsageError: the evaluator was called outside a run, where there are no training rows.
        """
        options = self.options
        if run is None or not run.train:
            raise UsageError(
                "the `memorization` evaluator needs training rows, which only exist in a run",
                hint="evaluate a run folder, or remove this evaluator",
            )
        other = open_tuned_comparison_model(options, run)
        parts = [
            choose_rows(part, options.rows, options.min_words) for part in (run.train, records)
        ]
        if other is None or not all(parts):
            return []
        chosen = [*parts[0], *parts[1]]
        prefixes = [prefix for _, prefix in chosen]
        tuned, base = (
            measure_reproduction(opened, prefixes, options.tokens) for opened in (model, other)
        )
        new = [
            float(after and not before) for (after, _), (before, _) in zip(tuned, base, strict=True)
        ]
        count = len(parts[0])
        groups = (_list_units(parts[0]), _list_units(parts[1]))
        found = compare_shares(new[:count], new[count:], options.margin, groups=groups)
        both = difference_of_shares(new[:count], new[count:], groups=groups)
        sizes = [count] * count + [len(parts[1])] * len(parts[1])
        signs = [2.0] * count + [-2.0] * len(parts[1])
        details = {
            **found.to_json(),
            "training_rows": count,
            "test_rows": len(parts[1]),
            "training_share": sum(new[:count]) / count,
            "test_share": sum(new[count:]) / len(parts[1]),
        }
        return [
            Measurement(
                metric=METRIC.name,
                values=tuple(sign * value for sign, value in zip(signs, new, strict=True)),
                weights=tuple(len(chosen) / (2 * size) for size in sizes),
                outputs=tuple(text for _, text in tuned),
                details={**details, "finding": describe(found, details)},
                records=[record for record, _ in chosen],
                interval=(both.low, both.high),
            )
        ]


def _list_units(chosen: Sequence[tuple[Record, object]]) -> Sequence[str | None]:
    from tunesmith_data.splits import cluster_records

    return RecordsByUnit([record for record, _ in chosen], cluster_records).units


def describe(found: NonInferiority, details: dict[str, float]) -> str:
    """Return whether the model memorizes, with the shares of reproduced rows, as a sentence."""
    training, test = map(format_share, (details["training_share"], details["test_share"]))
    figures = (
        f"only the tuned model reproduces {training} of {details['training_rows']} training rows "
        f"and {test} of {details['test_rows']} test rows verbatim, difference "
        f"{format_difference(found.value)}, {found.bounds}"
    )
    return found.describe("memorizes", "does not memorize", figures, "rows")


def review(plan: Plan, train: Sequence[Record], test: Sequence[Record]) -> Iterator[Finding]:
    """Yield a warning if there are too few rows to complete."""
    for evaluator in plan.evaluators:
        if not isinstance(evaluator.config, MemorizationOptions):
            continue
        words = evaluator.config.min_words
        counts = [len(choose_rows(part, MIN_UNITS, words)) for part in (train, test)]
        if min(counts) < MIN_UNITS // 2 + 1:
            yield Finding(
                level="warning",
                where=f"evaluators.{evaluator.id}.min_words",
                message=f"too few training or test rows have answers of at least {words} words, "
                "so memorization will remain undecided",
                hint="lower `min_words` if short answers can be memorized too",
            )


MEMORIZATION = EvaluatorOffer(
    name="memorization",
    summary=(
        "share of training rows that only the tuned model reproduces, minus the same share of "
        "test rows"
    ),
    config=MemorizationOptions,
    build=Memorization,
    metrics=(METRIC,),
    needs=("torch>=2.11", "transformers>=5.17"),
    model_count=lambda options: 2,
)
