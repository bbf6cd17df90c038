"""Decide if training again pays: RETRAIN, WAIT, or LABEL N MORE.

The expected net value of training again is::

    (excess * learned(rows) - forgetting) * requests * value - training - labels

``excess`` is how much more often answers are wrong now than in the evaluation. ``learned`` is the
share of it that a new model recovers. It follows from a power law of the excess error, as learning
curves do (Hestness et al. 2017, *Deep Learning Scaling is Predictable, Empirically*)::

    learned(rows) = 1 - (1 + rows / first_rows) ** -exponent

RETRAIN needs a positive net value even at the lower bound of the excess. Otherwise, the answer is
the smallest number of further labels whose narrower interval and better model would make it so, at
the cost of these labels. If no number would, the answer is WAIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

TEST_SHARE = 3
"""One in this many new rows becomes a test row; the others are trained on."""
STEPS = (25, 50, 100, 200, 400, 800, 1_600, 3_200)
"""Numbers of further labels to consider."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything that the decision depends on."""

    error_before: float
    """Share of wrong answers in the evaluation."""
    error_now: float
    """Share of wrong answers now."""
    error_low: float
    error_high: float
    audited: int
    """Number of answers that the share of wrong answers now is from."""
    rows: int
    """New labeled rows to train on."""
    volume: float
    """Requests per month."""
    months: float
    """Months until the model is replaced anyway."""
    value: float
    """Cost of a wrong answer."""
    training_cost: float
    """Cost of training and evaluating a model."""
    label_cost: float
    """Cost of labeling a row."""
    forgetting: float
    """Expected rise of the share of wrong answers to other requests."""
    first_rows: float
    """Scale of the learning curve: about this many rows halve the excess at an exponent of 1."""
    exponent: float
    """Exponent of the learning curve."""

    def learned(self, more: int = 0) -> float:
        """Return the share of the excess errors that a new model with more rows recovers."""
        return 1 - float((1 + (self.rows + more) / self.first_rows) ** -self.exponent)

    def net(self, error: float, more: int = 0) -> float:
        """Return the net value of training again, after labeling ``more`` rows."""
        excess = max(0.0, error - self.error_before)
        learned = self.learned(more - more // TEST_SHARE)
        gain = (excess * learned - self.forgetting) * self.volume * self.months
        return gain * self.value - self.training_cost - more * self.label_cost


@dataclass(frozen=True)
class Decision:
    """The decision, with the net values behind it."""

    word: str
    """``RETRAIN``, ``WAIT`` or ``LABEL``."""
    labels: int
    """Number of rows to label, for ``LABEL``."""
    low: float
    """Net value of training now at the lower bound of the error."""
    value: float
    """Net value of training now."""
    high: float
    """Net value of training now at the upper bound of the error."""

    @property
    def text(self) -> str:
        """``RETRAIN``, ``WAIT`` or ``LABEL N MORE``."""
        return f"LABEL {self.labels:,} MORE" if self.word == "LABEL" else self.word


def decide(inputs: Inputs) -> Decision:
    """Decide if training again pays."""
    low, value, high = (
        inputs.net(error) for error in (inputs.error_low, inputs.error_now, inputs.error_high)
    )
    if low > 0:
        return Decision("RETRAIN", 0, low, value, high)
    width = inputs.error_now - inputs.error_low
    for more in STEPS:
        narrower = width * (inputs.audited / (inputs.audited + more)) ** 0.5
        if inputs.net(inputs.error_now - narrower, more) > 0:
            return Decision("LABEL", more, low, value, high)
    return Decision("WAIT", 0, low, value, high)


def list_sensitivities(inputs: Inputs) -> Iterator[tuple[str, float, str, str]]:
    """Yield each input with its value, and the decisions at half and at twice this value."""
    for field in fields(inputs):
        if field.name in ("error_low", "error_high"):
            continue
        given = getattr(inputs, field.name)
        words = [decide(_scale(inputs, field.name, factor)).text for factor in (0.5, 2)]
        yield field.name, given, *words  # type: ignore[misc]  # two words


def _scale(inputs: Inputs, name: str, factor: float) -> Inputs:
    if name != "error_now":
        given = getattr(inputs, name)
        return replace(inputs, **{name: type(given)(given * factor)})
    names = ("error_now", "error_low", "error_high")
    return replace(inputs, **{n: min(1.0, getattr(inputs, n) * factor) for n in names})
