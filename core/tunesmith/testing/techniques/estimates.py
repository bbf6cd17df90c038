"""Checks that a technique's estimates of memory and compute are consistent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesmith.estimates import Assumptions, Estimate, EstimateRequest
from tunesmith.options import from_table
from tunesmith.testing.checks import NotApplicable, Subject, check, require

ASSUMPTIONS = Assumptions(sequence=64, micro_batch=2, rows=100)


@check("technique")
def estimates_are_intervals(subject: Subject) -> None:
    """In each phase of an estimate, low <= expected <= high, and the components sum to expected."""
    for request in _requests(subject):
        estimate = _first_estimate(subject, subject.options(), request)
        require(bool(estimate.memory), "the estimate has no phases")
        for phase, memory in estimate.memory.items():
            require(
                0 <= memory.low <= memory.expected <= memory.high,
                f"{phase}: low, expected and high are not in ascending order: {memory.low}, "
                f"{memory.expected}, {memory.high}",
            )
            parts = sum(memory.components.values())
            require(
                abs(parts - memory.expected) <= len(memory.components),
                f"{phase}: the components sum to {parts}, but expected is {memory.expected}",
            )
        counts = (estimate.flops, estimate.steps, estimate.tokens, estimate.longest_row)
        require(
            min(*counts, estimate.micro_batch_tokens) > 0,
            f"the estimated work is {counts}, not positive",
        )


@check("technique")
def estimates_follow_the_work(subject: Subject) -> None:
    """More rows do not need less compute, and longer rows do not need less memory."""
    for request in _requests(subject):
        config = subject.options()
        estimate = _first_estimate(subject, config, request)
        more = _first_estimate(subject, config, _with_assumptions(request, rows=1000))
        longer = _first_estimate(subject, config, _with_assumptions(request, sequence=512))
        require(
            more.flops >= estimate.flops,
            f"ten times as many rows need {more.flops} operations, not {estimate.flops} or more",
        )
        first, second = _expected_peak(estimate), _expected_peak(longer)
        require(
            second >= first,
            f"rows eight times as long need less memory: {second} bytes, not {first} or more",
        )


@check("technique")
def estimates_follow_the_options(subject: Subject) -> None:
    """At least one option changes the estimate."""
    request = next(_requests(subject))
    estimate = _first_estimate(subject, subject.options(), request)
    for config in _changed_options(subject):
        if _first_estimate(subject, config, request) != estimate:
            return
    require(False, "no option changes the estimate")


@check("technique")
def memory_savings_save_memory(subject: Subject) -> None:
    """A proposed memory saving does not need more memory, and names its disadvantage."""
    if subject.offer.memory_savings is None:
        raise NotApplicable("the technique proposes no memory savings")
    config = subject.options()
    for request in _requests(subject):
        before = _expected_peak(_first_estimate(subject, config, request))
        for saving in subject.offer.memory_savings(config):
            changes = ", ".join(saving.changes)
            require(
                type(saving.config) is type(config), f"{changes}: the options have another class"
            )
            require(
                bool(changes and saving.cost), f"{changes!r}: the changes or their cost are empty"
            )
            after = _expected_peak(_first_estimate(subject, saving.config, request))
            require(after <= before, f"{changes}: needs {after} bytes, but {before} without it")


def _requests(subject: Subject) -> Iterator[EstimateRequest]:
    """Yield a request for each type of device, with the caller's small model."""
    if subject.offer.estimate is None:
        raise NotApplicable("the technique gives no estimates")
    path = subject.samples.model_folder() / "config.json"
    config: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    for device in ("cpu", "cuda"):
        yield EstimateRequest(
            config=config,
            tokenizer=None,
            train=(),
            test=(),
            assumed=ASSUMPTIONS,
            device="cuda" if device == "cuda" else "cpu",
        )


def _with_assumptions(request: EstimateRequest, **changes: int) -> EstimateRequest:
    return replace(request, assumed=replace(ASSUMPTIONS, **changes))


def _first_estimate(subject: Subject, config: Any, request: EstimateRequest) -> Estimate:
    estimate = next(iter(subject.offer.estimate(config, request)), None)
    kind = type(estimate).__name__
    require(
        isinstance(estimate, Estimate), f"the estimate is a value of type {kind}, not an Estimate"
    )
    assert isinstance(estimate, Estimate)
    require(estimate.method == "analytic", f"the first estimate is {estimate.method}, not analytic")
    return estimate


def _expected_peak(estimate: Estimate) -> int:
    """Return the expected peak in bytes over all phases of a run."""
    return max(memory.expected for memory in estimate.memory.values())


def _changed_options(subject: Subject) -> Iterator[Any]:
    """Yield the options with one number doubled, or one boolean negated."""
    options = subject.options()
    table = options.model_dump(mode="json", by_alias=True)
    for key, value in table.items():
        other = not value if isinstance(value, bool) else value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            other = value * 2
        if other == value:
            continue
        try:
            yield from_table(type(options), {**_without_none(table), key: other})
        except ValidationError:
            continue
    yield from _changed_nested_options(options)


def _changed_nested_options(options: BaseModel) -> Iterator[BaseModel]:
    """Yield the options with one number of a nested table doubled."""
    for name, inner in options:
        if not isinstance(inner, BaseModel):
            continue
        for key, value in inner:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                doubled = inner.model_copy(update={key: value * 2})
                yield options.model_copy(update={name: doubled})


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}
