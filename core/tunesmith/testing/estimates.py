"""Checks of estimates: a technique that foretells what a run takes does so consistently."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesmith.contracts import Assumed, Estimate, EstimateRequest
from tunesmith.estimate.memory_peak import peak_of
from tunesmith.options import from_table
from tunesmith.testing.checks import NotApplicable, Subject, check, demand

ASSUMED = Assumed(sequence=64, micro_batch=2, rows=100)


@check("technique")
def estimates_are_intervals(subject: Subject) -> None:
    """An estimate has phases; in each, low <= expected <= high, and the parts make the whole."""
    for request in _requests(subject):
        estimate = _first(subject, subject.options(), request)
        demand(bool(estimate.memory), "it estimates no phase")
        for phase, memory in estimate.memory.items():
            demand(
                0 <= memory.low <= memory.expected <= memory.high,
                f"{phase}: {memory.low}, {memory.expected}, {memory.high} is no interval",
            )
            parts = sum(memory.components.values())
            demand(
                abs(parts - memory.expected) <= len(memory.components),
                f"{phase}: the components make {parts}, expected are {memory.expected}",
            )
        counts = (estimate.flops, estimate.steps, estimate.tokens, estimate.longest)
        demand(min(*counts, estimate.micro_batch_tokens) > 0, f"it estimates work of {counts}")


@check("technique")
def estimates_follow_the_work(subject: Subject) -> None:
    """More rows are more work, and longer rows take no less memory."""
    for request in _requests(subject):
        config = subject.options()
        now = _first(subject, config, request)
        more = _first(subject, config, _assuming(request, rows=1000))
        longer = _first(subject, config, _assuming(request, sequence=512))
        demand(more.flops >= now.flops, f"ten times the rows: {more.flops} after {now.flops}")
        first, second = peak_of(now).expected, peak_of(longer).expected
        demand(second >= first, f"eight times the length: {second} bytes after {first}")


@check("technique")
def estimates_follow_the_options(subject: Subject) -> None:
    """Some option makes a difference to what is estimated."""
    request = next(_requests(subject))
    now = _first(subject, subject.options(), request)
    for config in _changed(subject):
        if _first(subject, config, request) != now:
            return
    demand(False, "no option makes a difference")


@check("technique")
def economies_save_memory(subject: Subject) -> None:
    """What is offered to save memory does not take more of it, and says what it costs."""
    if subject.offer.economies is None:
        raise NotApplicable("it offers no economies")
    config = subject.options()
    for request in _requests(subject):
        now = peak_of(_first(subject, config, request)).expected
        for economy in subject.offer.economies(config):
            said = ", ".join(economy.changes)
            demand(type(economy.config) is type(config), f"{said}: other options")
            demand(bool(said and economy.price), f"{said!r}: says too little")
            then = peak_of(_first(subject, economy.config, request)).expected
            demand(then <= now, f"{said}: {then} bytes, it was {now}")


def _requests(subject: Subject) -> Iterator[EstimateRequest]:
    """A request for each kind of device, about the small model that the caller brought."""
    if subject.offer.estimate is None:
        raise NotApplicable("it gives no estimates")
    path = subject.samples.model_folder() / "config.json"
    config: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    for device in ("cpu", "cuda"):
        yield EstimateRequest(
            config=config,
            tokenizer=None,
            train=(),
            heldout=(),
            assumed=ASSUMED,
            device="cuda" if device == "cuda" else "cpu",
        )


def _assuming(request: EstimateRequest, **changes: int) -> EstimateRequest:
    return replace(request, assumed=replace(ASSUMED, **changes))


def _first(subject: Subject, config: Any, request: EstimateRequest) -> Estimate:
    estimate = next(iter(subject.offer.estimate(config, request)), None)
    demand(isinstance(estimate, Estimate), f"it estimates {type(estimate).__name__}")
    assert isinstance(estimate, Estimate)
    demand(estimate.method == "analytic", f"its first estimate is {estimate.method}")
    return estimate


def _changed(subject: Subject) -> Iterator[Any]:
    """The options with one number doubled, or one switch turned."""
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
    yield from _changed_inside(options)


def _changed_inside(options: BaseModel) -> Iterator[BaseModel]:
    """Options that are tables of options, with one number in one of them doubled."""
    for name, inner in options:
        if not isinstance(inner, BaseModel):
            continue
        for key, value in inner:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                twice = inner.model_copy(update={key: value * 2})
                yield options.model_copy(update={name: twice})


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}
