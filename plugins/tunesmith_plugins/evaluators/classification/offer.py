"""Options of ``classification``, and the test that makes it a default evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from tunesmith.contracts import Evaluator
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion, Record, last_exchange
from tunesmith_evidence.answers.generate import ComparedAnswerOptions
from tunesmith_evidence.answers.normalize import normalize_unicode

if TYPE_CHECKING:
    from tunesmith_evidence.statistics.contributions import Matrix

MIN_ROWS = 20
"""With fewer rows, the F1 of a class is too noisy to be useful."""


class ClassificationOptions(ComparedAnswerOptions):
    """Options of ``classification``: the labels, and how to read them from an answer."""

    labels: list[str] = Field(
        default_factory=list,
        description=(
            "All labels. Empty: each spelling of an answer in the rows is a label. If labels are "
            "listed, references may be spelled differently, but one that matches no label is an "
            "error."
        ),
    )
    ignore_case: bool = Field(
        True,
        description=(
            "Treat uppercase and lowercase as equal. Labels that differ only in case stay "
            "different; the same applies to `ignore_punctuation` and `ignore_lead_in`."
        ),
    )
    ignore_punctuation: bool = Field(
        True,
        description=(
            "Ignore punctuation after a label, and quotes, brackets and Markdown around it."
        ),
    )
    ignore_lead_in: bool = Field(
        True, description="Ignore a phrase such as `The answer is` before the label."
    )

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, value: list[str]) -> list[str]:
        labels = [*map(normalize_unicode, value)]
        if "" in labels or len(labels) == 1:
            raise ValueError("list at least two labels, none of them empty")
        if len({*labels}) < len(labels):
            raise ValueError("a label occurs twice in the list")
        return labels


def build(options: ClassificationOptions) -> Evaluator:
    """Create the evaluator from its options."""
    from tunesmith_plugins.evaluators.classification.evaluator import Classification

    return Classification(
        normalizer=options.build_normalizer(),
        labels=tuple(options.labels),
        max_new_tokens=options.max_new_tokens,
    )


def compute(counts: Matrix) -> Matrix:
    """Compute macro F1 from counts summed over rows."""
    from tunesmith_plugins.evaluators.classification.evaluator import compute_macro_f1

    return compute_macro_f1(counts)


def have_labels(records: Sequence[Record]) -> bool:
    """Return True if there are at least 20 rows, and their answers are a few recurring labels."""
    from tunesmith_evidence.tasks.kinds import detect_task_kind

    if len(records) < MIN_ROWS or not all(isinstance(r, Chat | Completion) for r in records):
        return False
    answers = [last_exchange(record)[1] for record in records]
    if any(answer.tool_calls for answer in answers):
        return False
    texts = [answer.text for answer in answers]
    return len({text.strip() for text in texts}) > 1 and detect_task_kind(texts) == "classes"


CLASSIFICATION = EvaluatorOffer(
    name="classification",
    summary="accuracy and macro F1 of answers that are labels; `Yes.` counts as `yes`",
    config=ClassificationOptions,
    build=build,
    needs=("numpy>=1.26",),
    metrics=(
        Metric(name="accuracy", higher_is_better=True, bounds=(0, 1)),
        Metric(
            name="macro-f1",
            higher_is_better=True,
            bounds=(0, 1),
            is_row_mean=False,
            compute=compute,
        ),
    ),
    accepts=frozenset({Chat, Completion}),
    default_for=have_labels,
    generates=True,
    reads_media=True,
    answer_limit=ClassificationOptions.answer_limit,
)
