"""Check the exit criteria in ``[gate]`` after a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import ceil, floor

from tunesmith.errors import GateError
from tunesmith.events import JSON, TUNED, FindingReported, GateChecked, Measured
from tunesmith.options import GateOptions


def check_warnings(gate: GateOptions, findings: Sequence[FindingReported]) -> None:
    """Raise an error if ``[gate] strict`` is set and there was a warning before training.

    Raises:
        GateError: names every warning.
    """
    if refuses(gate, findings):
        warnings = [f"{event.source}: {event.text}" for event in findings if event.level != "info"]
        hint = "fix the causes of the warnings, or run without --strict ([gate] strict)"
        raise GateError("\n".join(f"gate.strict: {text}" for text in warnings), hint=hint)


def refuses(gate: GateOptions, findings: Iterable[FindingReported]) -> bool:
    """Return True if ``[gate] strict`` ends a run because of these findings."""
    return gate.strict and any(event.level != "info" for event in findings)


def check_gate(
    gate: GateOptions,
    measured: Iterable[Measured],
    verdict: JSON,
    inner: Iterable[GateChecked] = (),
) -> None:
    """Check the exit criteria in ``[gate]``, and those that the technique itself checked.

    Raises:
        GateError: names every criterion that was not met.
    """
    failures = []
    for baseline in gate.must_beat:
        outcome = verdict.get("comparisons", {}).get(baseline, {}).get("outcome", "not measured")
        if outcome != "better":
            failures.append(
                f'gate.must_beat: the tuned model must beat {baseline}; the outcome is "{outcome}"'
            )
    if gate.strict and verdict.get("worth_it") is not True:
        word = verdict.get("word", verdict.get("outcome", "missing"))
        failures.append(f"gate.strict: the verdict does not recommend the tuned model: {word}")
    failures += _missed_bounds(gate, [event for event in measured if event.model == TUNED])
    refused = (event for event in inner if not event.passed and not event.accepted)
    failures += [f"{event.stage or event.gate}: {event.message}" for event in refused]
    if failures:
        hint = "the trained model is kept; `tunesmith report RUN` shows all scores"
        raise GateError("\n".join(failures), hint=hint)


def _missed_bounds(gate: GateOptions, tuned: Sequence[Measured]) -> Iterator[str]:
    """Yield a message for each threshold of ``at_least`` that is not met or whose test fails."""
    for where, evaluator, metric, bound in gate.bounds():
        events = [e for e in tuned if e.metric == metric and evaluator in ("", e.evaluator)]
        if not events:
            yield f"{where}: the metric was not measured"
        for event in events:
            met = event.value >= bound if event.higher_is_better else event.value <= bound
            # Round away from the threshold: "at least 0.9, got 0.900" would look like a success.
            limit, cut = ("at least", floor) if event.higher_is_better else ("at most", ceil)
            if not met or event.details.get("holds") is False:
                reason = f"; {event.details['finding']}" if "finding" in event.details else ""
                value = cut(event.value * 1_000) / 1_000
                yield f"{where}: must be {limit} {bound:g}, got {value:.3f}{reason}"
