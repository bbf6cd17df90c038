"""Correct values of well-known metrics, to check evaluators whose metrics have these names.

The usual variants of a metric agree on these texts, which are lower case, without articles and
punctuation. For BLEU, n-grams of every order match. If variants differ, each of their values is
accepted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.records import Chat, Completion, Message, Record
from tunesmith.testing.checks import NotApplicable, Subject, check, require
from tunesmith.testing.evaluators import measure
from tunesmith.testing.fakes import FakeTextModel

TOLERANCE = 2e-3


@dataclass(frozen=True)
class Known:
    """A reference, an answer, and the correct ``values`` of a metric for them."""

    reference: str
    answer: str
    values: tuple[float, ...]


def _mean(*precisions: float) -> float:
    """Return the geometric mean of n-gram precisions."""
    return math.prod(precisions) ** (1 / len(precisions))


_WORDS = "red green blue white black brown pink grey"
_RIGHT = Known("red green blue white", "red green blue white", (1.0,))
_WRONG = Known("red green blue white", "one two three four", (0.0,))
_EXACT = (_RIGHT, _WRONG)
KNOWN: Mapping[str, Sequence[Known]] = {
    "accuracy": _EXACT,
    "exact-match": (
        *_EXACT,
        Known("red green", "red green blue", (0.0,)),
        Known("red green", "red", (0.0,)),
    ),
    "f1": (
        *_EXACT,
        Known("red green blue", "red green", (0.8,)),
        Known("red green", "red blue", (0.5,)),
        Known("red", "red green blue", (0.5,)),
    ),
    "bleu": (
        _RIGHT,
        _WRONG,
        # All n-grams match but the answer is shorter, so only the brevity penalty applies.
        Known(_WORDS, _WORDS.rsplit(" ", 2)[0], (math.exp(1 - 8 / 6),)),
        # One word of eight is wrong: without smoothing, or with add-one smoothing from n = 2 on.
        Known(
            _WORDS,
            _WORDS.replace("white", "seven"),
            (_mean(7 / 8, 5 / 7, 3 / 6, 1 / 5), _mean(7 / 8, 6 / 8, 4 / 7, 2 / 6)),
        ),
    ),
}
"""Cases with known values by the name of the metric, in lower case with hyphens."""
ALIASES = {
    "em": "exact-match",
    "token-f1": "f1",
    "squad-f1": "f1",
    "bleu-4": "bleu",
    "sentence-bleu": "bleu",
}


@check("evaluator")
def known_metrics_have_their_values(subject: Subject) -> None:
    """A metric named accuracy, exact match, F1 or BLEU has the values that its name implies.

    A perfect answer has the value 1 or 100.
    """
    known = dict(_find_known(subject))
    if not known:
        raise NotApplicable("no metric of the evaluator has a well-known name")
    together = {metric.name for metric in subject.offer.metrics if not metric.is_row_mean}
    for name, cases in known.items():
        records = _records(subject, cases)
        model = FakeTextModel(answers={f"{n}?": case.answer for n, case in enumerate(cases)})
        # For a metric over all rows, measure each row alone.
        parts = [[record] for record in records] if name in together else [records]
        values = [v for part in parts for v in measure(subject, model, part)[name].values]
        scale = 100.0 if math.isclose(values[0], 100.0) else 1.0
        for case, value in zip(cases, values, strict=True):
            require(
                any(math.isclose(value / scale, v, abs_tol=TOLERANCE) for v in case.values),
                f"{name} of {case.answer!r} for {case.reference!r} is {value:.4g}, expected "
                + " or ".join(f"{v * scale:.4g}" for v in case.values),
            )


def _find_known(subject: Subject) -> Iterator[tuple[str, Sequence[Known]]]:
    for metric in subject.offer.metrics:
        name = metric.name.lower().replace("_", "-")
        if (cases := KNOWN.get(ALIASES.get(name, name))) is not None:
            yield metric.name, cases


def _records(subject: Subject, cases: Sequence[Known]) -> list[Record]:
    """Return a record for each case, of a kind that the evaluator accepts."""
    accepts = subject.offer.accepts
    if accepts is None or Completion in accepts:
        return [
            Completion(source=f"kit:{n}", prompt=f"{n}?", completion=case.reference)
            for n, case in enumerate(cases)
        ]
    if Chat in accepts:
        return [
            Chat(
                source=f"kit:{n}",
                messages=(Message("user", f"{n}?"), Message("assistant", case.reference)),
            )
            for n, case in enumerate(cases)
        ]
    raise NotApplicable("the evaluator measures neither completions nor conversations")
