"""Estimate the share of wrong labels in the training rows before training starts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

from tunesmith.contracts import Finding
from tunesmith.errors import DataError
from tunesmith.install import install_extra
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Record, last_exchange
from tunesmith.statistics import mean_interval
from tunesmith_evidence.number_text import format_share
from tunesmith_plugins.verdict.offer import VerdictOptions

WHERE = "label noise"
"""Source of the finding; the verdict finds the estimate by this name."""
MIN_ROWS = 60
MAX_ROWS = 1_500
"""Sample size in rows. It limits the time to 5 s for 77 labels, and to under 1 s for ten."""
MAX_LABEL_SHARE = 1 / 15
"""Maximum number of distinct answers, as a share of the rows. With fewer rows per label, the
estimate is too high: with 77 labels of banking77, about 10 % for 10 rows per label, 4 % for 20 and
2 % for 52."""
MIN_AGREEMENT_GAIN = 0.1
"""Required lead of the classifier's accuracy over the share of the most frequent label. With a
smaller lead, the words of a prompt do not predict its label, so the classifier cannot tell which
labels are wrong."""


def review_labels(plan: Plan, train: Sequence[Record]) -> list[Finding]:
    """Estimate the label noise and return it as a finding, which the verdict reads."""
    limit = plan.table(VerdictOptions).max_label_noise
    return estimate_label_noise(train, limit, plan.run.seed)


def estimate_label_noise(train: Sequence[Record], limit: float, seed: int) -> list[Finding]:
    """Return a finding if the 95 % interval of the share of wrong labels is above ``limit``.

    The interval is that of the sampled rows; it does not cover a bias of the estimate. The count of
    the finding is the estimated number of wrong labels in all training rows. If
    cleanlab is not installed, the finding is a note without a count.
    """
    if limit >= 1 or len(train) < MIN_ROWS:
        return []
    numbers = range(len(train))
    if len(train) > MAX_ROWS:
        numbers = sorted(random.Random(seed).sample(numbers, MAX_ROWS))  # type: ignore[assignment]
    sample = [train[number] for number in numbers]
    if not all(isinstance(record, Completion | Chat) for record in sample):
        return []
    answers = Counter(last_exchange(record)[1].text.strip() for record in sample)
    if not 2 <= len(answers) <= MAX_LABEL_SHARE * len(sample):
        return []
    if find_spec("cleanlab") is None:
        return [
            Finding(
                level="info",
                where="verdict.max_label_noise",
                message="cannot estimate the share of wrong labels: cleanlab is not installed",
                hint=install_extra("data"),
            )
        ]
    from tunesmith_data.label_errors import find_label_errors

    try:
        found = find_label_errors(sample)
    except DataError:  # the answers are not labels
        return []
    most_frequent = max(answers.values()) / len(sample)
    wrong = [float(row < found.count) for row in range(found.rows)]
    lowest = mean_interval(wrong).low
    if lowest <= limit or found.agreement < most_frequent + MIN_AGREEMENT_GAIN:
        return []
    finding = Finding(
        level="warning",
        where=WHERE,
        message=f"about {format_share(found.share)} of the training labels are wrong, and at least "
        f"{format_share(lowest)} (95 % interval)",
        hint="`tunesmith data check FILE --label-errors` lists the most suspicious rows; correct "
        "them in the training and test data before you train",
        count=round(found.share * len(train)),
    )
    return [finding]
