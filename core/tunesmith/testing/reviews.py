"""Checks of ``tunesmith_review_data``, for plugins that review data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import isgenerator, signature
from typing import Any

from tunesmith.contracts import Dataset, Finding
from tunesmith.records import Record
from tunesmith.testing.checks import NeedsSample, NotApplicable, Subject, check, require
from tunesmith.testing.examples import EXAMPLES_BY_KIND
from tunesmith.testing.worked_examples import ReviewExample

HOOK = "tunesmith_review_data"


def list_reviews(subject: Subject) -> list[Callable[..., Any]]:
    """Return the review hooks that can be called without a plan.

    Raises:
        NotApplicable: all of them need a plan.
    """
    found = [function for _, function in subject.plugins.implementations(HOOK)]
    callable_without_plan = [f for f in found if _needs_no_plan(f)]
    if not callable_without_plan:
        raise NotApplicable("the plugin's review of data needs a plan")
    return callable_without_plan


def _needs_no_plan(function: Callable[..., Any]) -> bool:
    plan = signature(function).parameters.get("plan")
    if plan is not None and plan.default is None:  # a lazy hook, imported when it is called
        return (
            _call(
                function, {"dataset": Dataset(train=[]), "train": [], "validation": [], "test": []}
            )
            is not None
        )
    return plan is None


def review(
    function: Callable[..., Any],
    train: Sequence[Record],
    validation: Sequence[Record] = (),
    test: Sequence[Record] = (),
) -> Sequence[Finding]:
    """Call a review hook with these splits of the data; return its findings."""
    given = {
        "dataset": Dataset(train=train, validation=validation or None, test=test or None),
        "train": train,
        "validation": validation,
        "test": test,
    }
    found = _call(function, given)
    require(
        isinstance(found, Sequence) and all(isinstance(finding, Finding) for finding in found),
        f"the review returns {found!r:.80}, not a list of findings",
    )
    findings: Sequence[Finding] = found
    return findings


def _call(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    names = signature(function).parameters
    found = function(**{name: value for name, value in given.items() if name in names})
    return [*found] if isgenerator(found) else found


def _parts() -> Iterator[tuple[list[Record], list[Record], list[Record]]]:
    """Yield sample data: splits with each kind of records, and then empty splits."""
    for records in EXAMPLES_BY_KIND.values():
        yield [*records[:4]], [*records[4:6]], [*records[6:]]
    yield [], [], []


@check("review of data")
def reviews_return_findings(subject: Subject) -> None:
    """A data review returns findings for every kind of records, and for empty data."""
    for function in list_reviews(subject):
        for parts in _parts():
            review(function, *parts)


@check("review of data")
def reviews_are_the_same_twice(subject: Subject) -> None:
    """A second review of the same data has the same findings, and the data is not changed."""
    for function in list_reviews(subject):
        for parts in _parts():
            before = [list(part) for part in parts]
            first, second = review(function, *parts), review(function, *parts)
            require(list(first) == list(second), "the second review has different findings")
            require([list(part) for part in parts] == before, "the review changes the records")


@check("review of data")
def reviews_find_what_their_examples_say(subject: Subject) -> None:
    """The review returns the findings that its worked examples expect, and no others."""
    functions = list_reviews(subject)
    examples = [e for e in subject.samples.examples.get(HOOK, ()) if isinstance(e, ReviewExample)]
    if not examples:
        raise NeedsSample(f"needs examples for {HOOK}: pass `examples` in a test")
    for number, example in enumerate(examples, 1):
        found = [
            finding
            for function in functions
            for finding in review(function, example.train, example.validation, example.test)
        ]
        messages = [finding.message for finding in found]
        if example.finds:
            require(
                any(example.finds in message for message in messages),
                f"example {number}: no finding contains {example.finds!r}, only {messages!r:.200}",
            )
        else:
            alarms = [finding.message for finding in found if finding.level != "info"]
            require(not alarms, f"example {number}: unexpected finding {alarms!r:.200}")
