"""Estimate the share of wrong labels among the training rows, before anything is trained."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

from tunesmith.contracts import Finding
from tunesmith.errors import DataError
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Record, last_exchange
from tunesmith_evidence.number_text import format_share
from tunesmith_plugins.verdict.offer import VerdictOptions

WHERE = "label noise"
"""Source of the finding by which the verdict finds the estimate."""
FEWEST_ROWS = 60
MOST_ROWS = 1_500
"""Rows of a sample, to limit the time: 5 s with 77 labels, less than 1 s with ten."""
MOST_LABELS = 0.2
"""Largest number of different answers, as a share of the rows, for answers to be labels."""
LEARNED = 0.1
"""The classifier agrees with the labels this much more often than the most frequent label is
right. Otherwise the words of a prompt do not tell its label, and nothing is known about noise."""

MISSING = Finding(
    level="info",
    where="verdict.max_label_noise",
    message="the share of wrong labels is not estimated: cleanlab is not installed",
    hint='pip install "tunesmith[data]"',
)


def review_labels(plan: Plan, train: Sequence[Record]) -> list[Finding]:
    """Estimate the label noise, which the verdict will ask for."""
    limit = plan.table(VerdictOptions).max_label_noise
    return estimate_label_noise(train, limit, plan.run.seed)


def estimate_label_noise(train: Sequence[Record], limit: float, seed: int) -> list[Finding]:
    """Return a finding if more than ``limit`` of the labels are probably wrong.

    Its count is the estimated number of wrong labels among all training rows. Where the library for
    it is missing, the finding is a note without a count.
    """
    if limit >= 1 or len(train) < FEWEST_ROWS:
        return []
    numbers = range(len(train))
    if len(train) > MOST_ROWS:
        numbers = sorted(random.Random(seed).sample(numbers, MOST_ROWS))  # type: ignore[assignment]
    sample = [train[number] for number in numbers]
    if not all(isinstance(record, Completion | Chat) for record in sample):
        return []
    answers = Counter(last_exchange(record)[1].text.strip() for record in sample)
    if not 2 <= len(answers) <= MOST_LABELS * len(sample):
        return []
    if find_spec("cleanlab") is None:
        return [MISSING]
    from tunesmith_data.label_errors import find_label_errors

    try:
        found = find_label_errors(sample)
    except DataError:  # the answers are no labels
        return []
    most_frequent = max(answers.values()) / len(sample)
    if found.share <= limit or found.agreement < most_frequent + LEARNED:
        return []
    finding = Finding(
        level="warning",
        where=WHERE,
        message=f"about {format_share(found.share)} of the labels of the training rows are wrong",
        hint="`tunesmith data check FILE --label-errors` lists the most suspect rows; correct "
        "them, and those of the test rows, before you train",
        count=round(found.share * len(train)),
    )
    return [finding]
